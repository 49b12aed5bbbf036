"""Define the asset checks that each run evaluates for its own messages: counts and codes, never samples."""

from collections.abc import Mapping, Sequence
from math import isfinite

import dagster as dg

from loginpipe.defs.metadata import asset_key, check_result
from loginpipe.logins.delays import DELAY_BOUNDS, quantile
from loginpipe.monitoring.anomalies import MAX_DELAYED, delayed
from loginpipe.postgres.batches import RunCounts

REJECT_RATE = dg.AssetCheckSpec(
    "reject_rate",
    asset=asset_key("validated_logins"),
    description="At most LOGINPIPE_MAX_REJECT_RATE of the messages received were rejected.",
)
SCHEMA_DRIFT = dg.AssetCheckSpec(
    "schema_drift",
    asset=asset_key("validated_logins"),
    description=(
        "Messages have no fields outside the contract. A failure is a warning: no message is rejected for an unknown "
        "field. LOGINPIPE_UNKNOWN_FIELDS and LOGINPIPE_EXTRA_FIELDS say what happens to such fields."
    ),
)
ONLY_TOKENS = dg.AssetCheckSpec(
    "only_tokens",
    asset=asset_key("masked_logins"),
    blocking=True,
    description="Every cell of masked_ip and masked_device_id is a token. Otherwise nothing of the batch is written.",
)


COUNTS_ADD_UP = dg.AssetCheckSpec(
    "counts_add_up",
    asset=asset_key("user_logins_table"),
    description="Received = inserted + duplicates + rejected, summed over the batches of the run.",
)
DELAY_WITHIN_LIMIT = dg.AssetCheckSpec(
    "delay_within_limit",
    asset=asset_key("user_logins_table"),
    description=(
        "The run stored at least 95 % of its logins within LOGINPIPE_MAX_DELAY_SECONDS after they were sent. A failure "
        "is a warning: the pipeline is behind, or was."
    ),
)

OF_A_RUN = (REJECT_RATE, SCHEMA_DRIFT, ONLY_TOKENS, DELAY_WITHIN_LIMIT, COUNTS_ADD_UP)
"""The checks that each run reports."""


def reject_rate(rejected: int, received: int, limit: float) -> dg.AssetCheckResult:
    """Evaluate the share of rejected messages in a run. A run without messages passes."""
    rate = rejected / received if received else 0.0
    found = f"{rejected:,} of {received:,} messages rejected ({rate:.2%}); the limit is {limit:.2%}"
    figures = {"rejected": rejected, "received": received, "rate": rate, "limit": limit}
    return check_result("rejected-messages", rate <= limit, found, figures, of=REJECT_RATE)


def schema_drift(unknown_fields: Mapping[str, int], fate: str) -> dg.AssetCheckResult:
    """Warn of fields outside the contract (name → number of messages).

    `fate` is the result of `loginpipe.logins.extras.UnknownFields.fate`.
    """
    return check_result(
        "rejected-messages",
        not unknown_fields,
        f"{len(unknown_fields)} unknown fields: {fate}" if unknown_fields else "No unknown fields",
        {"messages_by_field": dg.MetadataValue.json(dict(unknown_fields))},
        of=SCHEMA_DRIFT,
        warns=True,
    )


def only_tokens(logins: int, failure: str | None = None) -> dg.AssetCheckResult:
    """Report that all masked cells of the recorded logins are tokens, or the error of an unrecorded batch."""
    found = failure or f"All masked cells of {logins:,} logins contain a token"
    return check_result("a-run-fails", failure is None, found, {"rows": logins}, of=ONLY_TOKENS)


def counts_add_up(counts: RunCounts) -> dg.AssetCheckResult:
    """Report whether the counts of a run add up."""
    found = (
        f"{counts.unaccounted:,} of {counts.received:,} messages are not accounted for"
        if counts.unaccounted
        else f"{counts.received:,} received = {counts.inserted:,} inserted + {counts.duplicates:,} duplicates + "
        f"{counts.rejected:,} rejected"
    )
    figures = {
        name: getattr(counts, name) for name in ("received", "inserted", "duplicates", "rejected", "unaccounted")
    }
    return check_result("counts-do-not-add-up", not counts.unaccounted, found, figures, of=COUNTS_ADD_UP)


def counts_not_read(why: str) -> dg.AssetCheckResult:
    """Warn that the counts of a run could not be read."""
    return check_result("source-down", False, f"The counts could not be read: {why}", of=COUNTS_ADD_UP, warns=True)


def delay_within_limit(counts: Sequence[int], limit_seconds: int) -> dg.AssetCheckResult:
    """Evaluate a run's rows by bucket of `loginpipe.logins.delays`. The limit is rounded up to the next bound."""
    stored, late = sum(counts), delayed(counts, limit_seconds)
    return check_result(
        "the-backlog-grows",
        late <= MAX_DELAYED * stored,
        f"{late:,} of {stored:,} logins took longer than {limit_seconds:,} s from sent to stored",
        {
            "stored": stored,
            "late": late,
            "limit_seconds": limit_seconds,
            "p50": _span(quantile(counts, 0.5)),
            "p95": _span(quantile(counts, 0.95)),
        },
        of=DELAY_WITHIN_LIMIT,
        warns=True,
    )


def _span(seconds: float) -> str:
    # The UI cannot show infinity as a number.
    return f"up to {seconds:,.0f} s" if isfinite(seconds) else f"over {DELAY_BOUNDS[-1]:,} s"
