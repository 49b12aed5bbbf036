"""Stage 2: validate the messages."""

from typing import Any

import dagster as dg

from loginpipe.defs.ingest.raw_sqs_messages import MESSAGE_COLUMNS
from loginpipe.defs.metadata import GROUP, OWNERS, asset_key, column_lineage, column_schema
from loginpipe.ingest.totals import RunTotals
from loginpipe.logins.schema import VALIDATED_LOGINS_SCHEMA


def from_messages(*columns: str) -> dict[str, str]:
    """Return, for each column, the message column it is made from. Fields of a login come from the body."""
    return {column: column if column in MESSAGE_COLUMNS else "body" for column in columns}


VALIDATED_LOGINS = dg.AssetSpec(
    asset_key("validated_logins"),
    deps=[asset_key("raw_sqs_messages")],
    group_name=GROUP,
    owners=OWNERS,
    kinds={"pandas", "pandera"},
    code_version="2",
    metadata={
        **column_schema(*VALIDATED_LOGINS_SCHEMA.columns),
        **column_lineage("raw_sqs_messages", from_messages(*VALIDATED_LOGINS_SCHEMA.columns)),
    },
    description=(
        "Logins that meet the contract: the body is a JSON object and every field passes the pandera schema. "
        "They are in memory only, because addresses and device ids are still in clear."
    ),
)


def validated_logins(totals: RunTotals, fate: str) -> dict[str, Any]:
    """Return the metadata of the logins that a run accepted. `fate` is what happens to unknown fields."""
    return {
        "dagster/row_count": totals.accepted,
        "null_locales": totals.null_locales,
        "unknown_fields": dg.MetadataValue.json(dict(totals.unknown_fields)),
        "unknown_fields_are": fate,
    }
