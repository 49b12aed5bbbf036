"""Stage 4: one transaction, and only then the deletes."""

import dagster as dg

from loginpipe.assets.columns import column_lineage, column_schema
from loginpipe.assets.group import GROUP, OWNERS
from loginpipe.handover import HANDOVER
from loginpipe.logins.user_logins import USER_LOGINS_COLUMNS
from loginpipe.masking.mask import MaskedBatch
from loginpipe.resources import PostgresResource, SqsResource


@dg.asset(
    group_name=GROUP,
    io_manager_key=HANDOVER,
    owners=OWNERS,
    kinds={"postgres", "table"},
    code_version="1",
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
    context: dg.AssetExecutionContext, masked_logins: MaskedBatch, sqs: SqsResource, postgres: PostgresResource
) -> dg.MaterializeResult[None]:
    """Load, delete, close the run's books.

    Raises:
        DatabaseError: nothing was written and nothing deleted.
    """
    counts = postgres.load(
        masked_logins.logins,
        masked_logins.sealed,
        context.run.run_id,
        aliases=masked_logins.aliases,
        erasures=masked_logins.erasures,
    )
    deletion = sqs.delete(masked_logins.logins["message_id"])
    postgres.close_run(context.run.run_id, deletion=sqs.deletion, leases_lost=sqs.leases_lost)
    context.log.info("inserted %d logins; %d messages were known already", counts.inserted, counts.duplicates)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": counts.inserted,
            "duplicates": counts.duplicates,
            "newly_in_vault": counts.sealed,
            "deleted": deletion.deleted,
            "delete_failures": dg.MetadataValue.json(dict(deletion.failures)),
            "leases_lost": sqs.leases_lost,
        }
    )
