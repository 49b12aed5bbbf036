"""Stage 4: write the table, and only then delete the messages. ``definitions.py`` adds `dagster/table_name`."""

from typing import Any

import dagster as dg

from loginpipe.common.logins_table import USER_LOGINS_COLUMNS
from loginpipe.defs.metadata import GROUP, OWNERS, asset_key, bar_plot, column_lineage, column_schema
from loginpipe.ingest.totals import RunTotals
from loginpipe.logins.delays import delay_labels

USER_LOGINS_TABLE = dg.AssetSpec(
    asset_key("user_logins_table"),
    deps=[asset_key("masked_logins")],
    group_name=GROUP,
    owners=OWNERS,
    kinds={"postgres", "table"},
    code_version="2",
    metadata={
        **column_schema(*(name for name, _ in USER_LOGINS_COLUMNS)),
        **column_lineage("masked_logins", {name: name for name, _ in USER_LOGINS_COLUMNS}),
    },
    description=(
        "The table user_logins. One transaction commits the rows, deduplication ledger, sealed values and counts of a "
        "batch; then its messages are deleted from the queue. A message that is delivered again changes nothing and is "
        "deleted."
    ),
)


def user_logins_table(totals: RunTotals, *, leases_lost: int) -> dict[str, Any]:
    """Return the metadata of the rows that a run added."""
    by_day = {str(day): rows for day, rows in sorted(totals.rows_by_day.items())}
    return {
        "dagster/row_count": totals.inserted,
        "delay": bar_plot("logins by time from sent to stored", dict(zip(delay_labels(), totals.delays, strict=True))),
        "rows_by_day": bar_plot("rows by UTC day of the login", by_day),
        "duplicates": totals.duplicates,
        "newly_in_vault": totals.sealed,
        "deleted": totals.deleted,
        "delete_failures": dg.MetadataValue.json(dict(totals.delete_failures)),
        "leases_lost": leases_lost,
    }
