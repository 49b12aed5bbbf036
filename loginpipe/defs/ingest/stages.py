"""Describe the five assets of the chain, in the order of the data: their specs, and what a run reports of each."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from loginpipe.common.logins_table import USER_LOGINS_COLUMNS
from loginpipe.defs.metadata import GROUP, OWNERS, asset_key, bar_plot, column_lineage, column_schema
from loginpipe.defs.resources import MaskingResource
from loginpipe.ingest.totals import RunTotals
from loginpipe.logins.delays import delay_labels
from loginpipe.logins.schema import VALIDATED_LOGINS_SCHEMA
from loginpipe.masking.mask import MASKED_COLUMNS
from loginpipe.sqs.receiver import ReceiveCounts

Checks = Sequence[dg.AssetCheckResult]

_MESSAGE_COLUMNS = ("message_id", "body", "sent_at", "received_at", "receive_count", "body_intact")
_TABLE_COLUMNS = tuple(name for name, _ in USER_LOGINS_COLUMNS)


def _stage(name: str, upstream: str, sources: Mapping[str, str], **spec: Any) -> dg.AssetSpec:
    """Return the spec of an asset of the chain. `sources` has each column, and the upstream column it is made from."""
    return dg.AssetSpec(
        asset_key(name),
        deps=[asset_key(upstream)],
        group_name=GROUP,
        owners=OWNERS,
        metadata={**column_schema(*sources), **column_lineage(upstream, sources)},
        **spec,
    )


def _from_messages(*columns: str) -> dict[str, str]:
    """Return the message column that each column is made from. Fields of a login come from the body."""
    return {column: column if column in _MESSAGE_COLUMNS else "body" for column in columns}


# --- 1: receive and lease messages ------------------------------------------------------------------------------------

RAW_SQS_MESSAGES = dg.AssetSpec(
    asset_key("raw_sqs_messages"),
    group_name=GROUP,
    owners=OWNERS,
    kinds={"sqs"},
    code_version="2",
    metadata=column_schema(*_MESSAGE_COLUMNS),
    description=(
        "Messages received from the login queue, in batches of at most LOGINPIPE_BATCH_MESSAGES. They are in memory "
        "only, because the bodies hold personal data in clear. Until their outcome is committed, the messages stay on "
        "the queue, hidden from other consumers. If the run fails, they return to the queue."
    ),
)


def raw_sqs_messages(
    totals: RunTotals, counts: ReceiveCounts, *, queue: str, at_limit: bool
) -> dg.MaterializeResult[None]:
    """Describe the messages that a run received."""
    metadata: dict[str, Any] = {"dagster/row_count": totals.received}
    if totals.sent_ms is not None:
        step, rates = messages_per_minute(totals.minutes)
        metadata["messages_per_minute"] = bar_plot(f"messages per minute by time sent (UTC), step {step}", rates)
        for name, sent_ms in zip(("oldest_sent_at", "newest_sent_at"), totals.sent_ms, strict=True):
            metadata[name] = dg.MetadataValue.timestamp(datetime.fromtimestamp(sent_ms / 1000, UTC))
    metadata |= {
        "queue": dg.MetadataValue.text(queue),
        "batches": totals.batches,
        "redelivered": totals.redelivered,
        "corrupt_returned": counts.corrupt,
        "empty_receives": counts.empty_receives,
        "in_flight_limit_reached": at_limit,
    }
    return dg.MaterializeResult(asset_key=RAW_SQS_MESSAGES.key, metadata=metadata)


_STEPS = {
    "1min": 1, "2min": 2, "5min": 5, "15min": 15, "30min": 30, "1h": 60, "2h": 120, "6h": 360, "12h": 720, "1D": 1440,
}  # fmt: skip
_MAX_SHOWN = 24


def messages_per_minute(minutes: Mapping[int, int]) -> tuple[str, dict[str, float]]:
    """Return the rate at which messages were sent, by time, from minute since 1970 → messages, at least one.

    Return the step, as in ``5min``, and the start of each step (UTC) → messages per minute in it, with empty steps.
    There are at most 24 steps if the messages are at most 23 days apart.
    """
    first, last = min(minutes), max(minutes)
    fitting = (item for item in _STEPS.items() if last // item[1] - first // item[1] < _MAX_SHOWN)
    name, step = next(fitting, ("1D", 1440))
    counts: Counter[int] = Counter()
    for minute, messages in minutes.items():
        counts[minute // step] += messages
    return name, {
        f"{datetime.fromtimestamp(place * step * 60, UTC):%d %b %H:%M}": counts[place] / step
        for place in range(first // step, last // step + 1)
    }


# --- 2: validate the messages, and record those that are not valid logins ---------------------------------------------

VALIDATED_LOGINS = _stage(
    "validated_logins",
    "raw_sqs_messages",
    _from_messages(*VALIDATED_LOGINS_SCHEMA.columns),
    kinds={"pandas", "pandera"},
    code_version="2",
    description=(
        "Logins that meet the contract: the body is a JSON object and every field passes the pandera schema. "
        "They are in memory only, because addresses and device ids are still in clear."
    ),
)


def validated_logins(totals: RunTotals, fate: str, results: Checks) -> dg.MaterializeResult[None]:
    """Describe the logins that a run accepted. `fate` is what happens to unknown fields."""
    metadata: dict[str, Any] = {
        "dagster/row_count": totals.accepted,
        "null_locales": totals.null_locales,
        "unknown_fields": dg.MetadataValue.json(dict(totals.unknown_fields)),
        "unknown_fields_are": fate,
    }
    return dg.MaterializeResult(asset_key=VALIDATED_LOGINS.key, metadata=metadata, check_results=results)


REJECTED_LOGINS = _stage(
    "rejected_logins",
    "raw_sqs_messages",
    _from_messages("message_id", "sent_at", "received_at", "reasons", "fields", "sealed_body"),
    kinds={"pandera", "postgres", "table"},
    code_version="2",
    description=(
        "Rejected messages in loginpipe.rejected_messages, with reason codes, the names of the invalid fields, and the "
        "body sealed with the public key. Once recorded they are deleted from the queue, so that an invalid message "
        "never delays valid ones."
    ),
).merge_attributes(metadata={"dagster/table_name": "loginpipe.rejected_messages"})


def rejected_logins(totals: RunTotals) -> dg.MaterializeResult[None]:
    """Describe the messages that a run rejected."""
    counts = {"dagster/row_count": totals.recorded_rejects, "rejected": totals.rejected}
    return dg.MaterializeResult(asset_key=REJECTED_LOGINS.key, metadata={**counts, **by_reason(totals.reasons)})


def by_reason(reasons: Mapping[str, int]) -> dict[str, Any]:
    """Return rejected messages by reason as metadata, the most frequent first."""
    counts = dict(Counter(reasons).most_common())
    return {"by_reason": bar_plot("rejected messages by reason", counts), "reasons": dg.MetadataValue.json(counts)}


# --- 3: replace personal data with tokens, and seal the values of new tokens ------------------------------------------

_MADE_FROM = {**MASKED_COLUMNS, "create_date": "sent_at"}

# No later stage has clear values.
MASKED_LOGINS = _stage(
    "masked_logins",
    "validated_logins",
    {name: _MADE_FROM.get(name, name) for name in ("message_id", "sent_at", *_TABLE_COLUMNS)},
    kinds={"pandas"},
    code_version="3",
    description=(
        "The validated logins with address and device id replaced by tokens (HMAC-SHA-256 with a secret key). Equal "
        "values have equal tokens. The original values are sealed with a public key; the pipeline cannot open them."
    ),
)


def masked_logins(totals: RunTotals, masking: MaskingResource, results: Checks) -> dg.MaterializeResult[None]:
    """Describe the logins that a run masked."""
    shares = {name: seen / totals.accepted if totals.accepted else 0.0 for name, seen in totals.seen_before.items()}
    metadata: dict[str, Any] = {
        "dagster/row_count": totals.accepted,
        "seen_before": bar_plot(
            "% of logins with a value seen before, without placeholders",
            {name: 100 * share for name, share in shares.items()},
        ),
        "newly_sealed": totals.sealed,
        "masking": masking.settings.masking,
        "token_key_version": masking.loaded.keys.current,
        "aliases": totals.aliases,
        **{f"{name}_seen_before": share for name, share in shares.items()},
    }
    return dg.MaterializeResult(asset_key=MASKED_LOGINS.key, metadata=metadata, check_results=results)


# --- 4: write the table, and only then delete the messages ------------------------------------------------------------

# `definitions.py` adds `dagster/table_name`.
USER_LOGINS_TABLE = _stage(
    "user_logins_table",
    "masked_logins",
    {name: name for name in _TABLE_COLUMNS},
    kinds={"postgres", "table"},
    code_version="2",
    description=(
        "The table user_logins. One transaction commits the rows, deduplication ledger, sealed values and counts of a "
        "batch; then its messages are deleted from the queue. A message that is delivered again changes nothing and is "
        "deleted."
    ),
)


def user_logins_table(totals: RunTotals, results: Checks, *, leases_lost: int) -> dg.MaterializeResult[None]:
    """Describe the rows that a run added."""
    by_day = {str(day): rows for day, rows in sorted(totals.rows_by_day.items())}
    metadata: dict[str, Any] = {
        "dagster/row_count": totals.inserted,
        **by_delay_and_day(totals.delays, by_day),
        "duplicates": totals.duplicates,
        "newly_in_vault": totals.sealed,
        "deleted": totals.deleted,
        "delete_failures": dg.MetadataValue.json(dict(totals.delete_failures)),
        "leases_lost": leases_lost,
    }
    return dg.MaterializeResult(asset_key=USER_LOGINS_TABLE.key, metadata=metadata, check_results=results)


def by_delay_and_day(delays: Sequence[int], by_day: Mapping[str, int]) -> dict[str, Any]:
    """Return added rows by bucket of `loginpipe.logins.delays` and by day as metadata."""
    by_delay = dict(zip(delay_labels(), delays, strict=True))
    return {
        "delay": bar_plot("logins by time from sent to stored", by_delay),
        "rows_by_day": bar_plot("rows by UTC day of the login", by_day),
    }


SPECS = [RAW_SQS_MESSAGES, VALIDATED_LOGINS, REJECTED_LOGINS, MASKED_LOGINS, USER_LOGINS_TABLE]
