"""Stage 1: receive and lease messages."""

from datetime import UTC, datetime
from typing import Any

import dagster as dg

from loginpipe.defs.metadata.columns import column_schema
from loginpipe.defs.metadata.groups import GROUP, OWNERS, asset_key
from loginpipe.defs.metadata.plots import bar_plot
from loginpipe.ingest.totals import RunTotals
from loginpipe.logins.arrivals import messages_per_minute
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
