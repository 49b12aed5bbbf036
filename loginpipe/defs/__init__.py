"""Define everything that Dagster loads, by subject. This is the only folder that imports Dagster, in thin shells."""

import warnings

import dagster as dg

# Dagster warns on every output that these parameters may still change. Its own `dg launch` uses the second.
warnings.filterwarnings("ignore", message="Parameter `(backfill_policy|include_sources)`", category=dg.BetaWarning)
