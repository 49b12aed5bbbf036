"""Stage 1: receive and lease messages."""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from loginpipe.defs.metadata import GROUP, OWNERS, asset_key, bar_plot, column_schema
from loginpipe.ingest.totals import RunTotals
from loginpipe.sqs.receiver import ReceiveCounts

MESSAGE_COLUMNS = ("message_id", "body", "sent_at", "received_at", "receive_count", "body_intact")

RAW_SQS_MESSAGES = dg.AssetSpec(
    asset_key("raw_sqs_messages"),
    group_name=GROUP,
    owners=OWNERS,
    kinds={"sqs"},
    code_version="2",
    metadata=column_schema(*MESSAGE_COLUMNS),
    description=(
        "Messages received from the login queue, in batches of at most LOGINPIPE_BATCH_MESSAGES. They are in memory "
        "only, because the bodies hold personal data in clear. Until their outcome is committed, the messages stay on "
        "the queue, hidden from other consumers. If the run fails, they return to the queue."
    ),
)


def raw_sqs_messages(totals: RunTotals, counts: ReceiveCounts, *, queue: str, at_limit: bool) -> dict[str, Any]:
    """Return the metadata of the messages that a run received."""
    metadata: dict[str, Any] = {"dagster/row_count": totals.received}
    if totals.sent_ms is not None:
        step, rates = messages_per_minute(totals.minutes)
        metadata["messages_per_minute"] = bar_plot(f"messages per minute by time sent (UTC), step {step}", rates)
        metadata["oldest_sent_at"], metadata["newest_sent_at"] = map(_timestamp, totals.sent_ms)
    return metadata | {
        "queue": dg.MetadataValue.text(queue),
        "batches": totals.batches,
        "redelivered": totals.redelivered,
        "corrupt_returned": counts.corrupt,
        "empty_receives": counts.empty_receives,
        "in_flight_limit_reached": at_limit,
    }


def _timestamp(milliseconds: int) -> dg.TimestampMetadataValue:
    return dg.MetadataValue.timestamp(datetime.fromtimestamp(milliseconds / 1000, UTC))


_STEPS = {
    "1min": 1, "2min": 2, "5min": 5, "15min": 15, "30min": 30, "1h": 60, "2h": 120, "6h": 360, "12h": 720, "1D": 1440,
}  # fmt: skip
_MAX_SHOWN = 24


def messages_per_minute(minutes: Mapping[int, int]) -> tuple[str, dict[str, float]]:
    """Return the rate at which messages were sent, by time.

    Args:
        minutes: minute since 1970 → messages sent in it; at least one.

    Returns:
        The step, as in ``5min``, and the start of each step (UTC) → messages per minute in it, with empty steps. At
        most 24 steps if the messages are at most 23 days apart.
    """
    first, last = min(minutes), max(minutes)
    name, step = next(
        ((name, step) for name, step in _STEPS.items() if last // step - first // step < _MAX_SHOWN), ("1D", 1440)
    )
    counts: Counter[int] = Counter()
    for minute, messages in minutes.items():
        counts[minute // step] += messages
    return name, {
        f"{datetime.fromtimestamp(place * step * 60, UTC):%d %b %H:%M}": counts[place] / step
        for place in range(first // step, last // step + 1)
    }
