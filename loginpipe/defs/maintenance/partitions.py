"""Create future partitions, drop those too old for any message on a queue, and sum up old batches."""

from datetime import UTC, datetime
from functools import partial

import dagster as dg

from loginpipe.defs.metadata.groups import downstream_tags
from loginpipe.defs.resources import PostgresResource
from loginpipe.postgres.batches import KEPT_DAYS, roll_up
from loginpipe.postgres.partitions import maintain


@dg.op
def create_and_drop_partitions(context: dg.OpExecutionContext, postgres: PostgresResource) -> None:
    """Create future partitions, and drop the ledger's partitions that are older than any message on a queue can be.

    Replace batches that are no longer read one by one with sums.
    """
    today = datetime.now(UTC).date()
    result = postgres.run(partial(maintain, today=today))
    hours = postgres.run(partial(roll_up, today=today))
    context.log.info(
        "created %d partitions, dropped %d; summed up the batches of %d hours",
        len(result.created),
        len(result.dropped),
        hours,
    )
    context.add_output_metadata(
        {
            "created": dg.MetadataValue.json(result.created),
            "dropped": dg.MetadataValue.json(result.dropped),
            "unmanaged": dg.MetadataValue.json(result.unmanaged),
            "rows_in_default_partitions": dg.MetadataValue.json(result.rows_in_default),
            "hours_rolled_up": hours,
        }
    )


@dg.job(
    description=(
        "Creates future partitions of user_logins and of the ledger, and drops expired ones of the ledger. Replaces "
        f"batches older than {KEPT_DAYS} days with hourly sums."
    ),
    tags=downstream_tags("maintain_partitions", longest_seconds=3600),
)
def maintain_partitions() -> None:
    """Maintain partitions and batches once a day."""
    create_and_drop_partitions()


maintenance_schedule = dg.ScheduleDefinition(
    name="maintain_partitions_daily",
    job=maintain_partitions,
    cron_schedule="15 0 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Every day at 00:15 UTC, well before the newest partition is needed.",
)
