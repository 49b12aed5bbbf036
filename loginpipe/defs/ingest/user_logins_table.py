"""Stage 4: one transaction, and only then the deletes."""

from collections.abc import Iterator

import dagster as dg

from loginpipe.common.settings import Settings
from loginpipe.defs.ingest.checks import DELAY_WITHIN_LIMIT, delay_within_limit
from loginpipe.defs.ingest.handover import HANDOVER
from loginpipe.defs.ingest.timing import stopwatch
from loginpipe.defs.metadata.columns import column_lineage, column_schema
from loginpipe.defs.metadata.groups import GROUP, OWNERS
from loginpipe.defs.metadata.plots import bar_plot
from loginpipe.defs.resources import PostgresResource, SqsResource
from loginpipe.logins.delays import delay_labels, quantile
from loginpipe.logins.user_logins import USER_LOGINS_COLUMNS
from loginpipe.masking.mask import MaskedBatch


@dg.asset(
    group_name=GROUP,
    io_manager_key=HANDOVER,
    owners=OWNERS,
    kinds={"postgres", "table"},
    code_version="1",
    check_specs=[DELAY_WITHIN_LIMIT],
    metadata={
        **column_schema(*(name for name, _ in USER_LOGINS_COLUMNS)),
        "dagster/table_name": "public.user_logins",
        **column_lineage("masked_logins", {name: name for name, _ in USER_LOGINS_COLUMNS}),
    },
    description=(
        "The table user_logins. Rows, deduplication ledger, sealed values and the run's books are committed in one "
        "transaction; then the messages are deleted from the queue. A message that is delivered again changes nothing "
        "and is deleted."
    ),
)
def user_logins_table(
    context: dg.AssetExecutionContext,
    masked_logins: MaskedBatch,
    sqs: SqsResource,
    postgres: PostgresResource,
    settings: dg.ResourceParam[Settings],
) -> Iterator[dg.MaterializeResult[None]]:
    """Load, delete, close the run's books.

    Raises:
        DatabaseError: nothing was written and nothing deleted.
    """
    seconds = stopwatch()
    counts = postgres.load(
        masked_logins.logins,
        masked_logins.sealed,
        context.run.run_id,
        aliases=masked_logins.aliases,
        erasures=masked_logins.erasures,
    )
    deletion = sqs.delete(masked_logins.logins["message_id"])
    postgres.close_run(context.run.run_id, deletion=sqs.deletion, leases_lost=sqs.leases_lost)
    context.log.info(
        "inserted %d logins; %d messages were known already",
        counts.inserted,
        counts.duplicates,
        extra={
            "inserted": counts.inserted,
            "duplicates": counts.duplicates,
            "deleted": deletion.deleted,
            "delay_p95_seconds": quantile(counts.delays, 0.95),
            "seconds": seconds(),
        },
    )
    yield dg.MaterializeResult(
        metadata={
            "dagster/row_count": counts.inserted,
            "delay": bar_plot(
                "logins by time from sent to stored", dict(zip(delay_labels(), counts.delays, strict=True))
            ),
            "duplicates": counts.duplicates,
            "newly_in_vault": counts.sealed,
            "deleted": deletion.deleted,
            "delete_failures": dg.MetadataValue.json(dict(deletion.failures)),
            "leases_lost": sqs.leases_lost,
        },
        check_results=[delay_within_limit(counts.delays, settings.max_delay_seconds)],
    )
