"""Define everything that Dagster loads, by subject. This is the only folder that imports Dagster, in thin shells."""
