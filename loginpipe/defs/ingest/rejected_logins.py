"""Stage 2, side branch: record the messages that are not valid logins, with the reasons."""

from typing import Any

import dagster as dg

from loginpipe.defs.ingest.validated_logins import from_messages
from loginpipe.defs.metadata import GROUP, OWNERS, asset_key, bar_plot, column_lineage, column_schema
from loginpipe.ingest.totals import RunTotals

_COLUMNS = ("message_id", "sent_at", "received_at", "reasons", "fields", "sealed_body")

REJECTED_LOGINS = dg.AssetSpec(
    asset_key("rejected_logins"),
    deps=[asset_key("raw_sqs_messages")],
    group_name=GROUP,
    owners=OWNERS,
    kinds={"pandera", "postgres", "table"},
    code_version="2",
    metadata={
        **column_schema(*_COLUMNS),
        **column_lineage("raw_sqs_messages", from_messages(*_COLUMNS)),
        "dagster/table_name": "loginpipe.rejected_messages",
    },
    description=(
        "Rejected messages in loginpipe.rejected_messages, with reason codes, the names of the invalid fields, and the "
        "body sealed with the public key. Once recorded they are deleted from the queue, so that an invalid message "
        "never delays valid ones."
    ),
)


def rejected_logins(totals: RunTotals) -> dict[str, Any]:
    """Return the metadata of the messages that a run rejected."""
    reasons = dict(totals.reasons.most_common())
    return {
        "dagster/row_count": totals.recorded_rejects,
        "by_reason": bar_plot("rejected messages by reason", reasons),
        "rejected": totals.rejected,
        "reasons": dg.MetadataValue.json(reasons),
    }
