"""The partitions of the tables: made ahead, dropped when no queue can bring anything for them any more.

With them go the batches that are no longer kept one by one.
"""

from datetime import UTC, datetime
from functools import partial

import dagster as dg

from loginpipe.defs.resources import PostgresResource
from loginpipe.postgres.batches import roll_up
from loginpipe.postgres.partitions import maintain


@dg.op
def create_and_drop_partitions(context: dg.OpExecutionContext, postgres: PostgresResource) -> None:
    """Create the coming partitions, drop the ledger's expired ones, and sum up old batches by hour."""
    today = datetime.now(UTC).date()
    result = postgres.run(partial(maintain, today=today))
    hours = postgres.run(partial(roll_up, today=today))
    context.log.info("created %d partitions, dropped %d", len(result.created), len(result.dropped))
    context.add_output_metadata(
        {
            "created": dg.MetadataValue.json(result.created),
            "dropped": dg.MetadataValue.json(result.dropped),
            "left_alone": dg.MetadataValue.json(result.left_alone),
            "hours_of_batches_summed_up": hours,
            "rows_in_default_partitions": dg.MetadataValue.json(result.rows_in_default),
        }
    )


@dg.job(
    description=(
        "Creates the coming partitions of user_logins and of the ledger; drops the ledger's expired ones; sums up old "
        "batches by hour."
    ),
)
def maintain_partitions() -> None:
    """Partitions, once a day."""
    create_and_drop_partitions()


maintenance_schedule = dg.ScheduleDefinition(
    name="maintain_partitions_daily",
    job=maintain_partitions,
    cron_schedule="15 0 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Once a day, well before the last partition that is there is reached.",
)
