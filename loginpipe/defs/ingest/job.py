"""Jobs and their schedules."""

from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import dagster as dg

from loginpipe.defs.maintenance.table_checks import (
    ledger_matches_table,
    nothing_in_default_partitions,
    token_key_version_current,
)
from loginpipe.defs.maintenance.volume_checks import daily_volume, null_locale_share
from loginpipe.defs.metadata.groups import GROUP, INSIGHTS
from loginpipe.defs.monitoring.freshness import fresh
from loginpipe.defs.resources import PostgresResource
from loginpipe.postgres.partitions import maintain

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

INGEST_JOB = "ingest_logins"
QUEUE_TAG = "loginpipe/queue"
"""Run tag with the queue's name: ``dagster.yaml`` limits how many runs work on one queue."""

LONGEST_RUN_SECONDS = 900
"""A run whose code server died stays STARTED, and counts as going, until this ends it."""


DAILY_CHECKS = (
    ledger_matches_table,
    nothing_in_default_partitions,
    token_key_version_current,
    daily_volume,
    null_locale_share,
)
# A run does not wait for what looks at whole days, nor for what a sensor looks at.
_NOT_WITH_EVERY_RUN = dg.AssetSelection.checks(*DAILY_CHECKS, fresh)


def ingest_job(queue_name: str) -> "UnresolvedAssetJobDefinition":
    """Return the job that takes one bite of the queue through the whole chain."""
    return dg.define_asset_job(
        INGEST_JOB,
        selection=dg.AssetSelection.groups(GROUP) - _NOT_WITH_EVERY_RUN,
        description="One bounded bite of the login queue, through the whole chain into user_logins.",
        # A run that was killed is begun anew: what it had in hand is gone, and back on the queue.
        tags={
            QUEUE_TAG: queue_name,
            "dagster/max_runtime": str(LONGEST_RUN_SECONDS),
            "dagster/retry_strategy": "ALL_STEPS",
        },
    )


def run_in_process(definitions: dg.Definitions) -> bool:
    """Run the ingest job once, in this process, with nothing kept in any Dagster storage; return whether it succeeded.

    Only errors are written to the console.
    """
    quiet = {"loggers": {"console": {"config": {"log_level": "ERROR"}}}}
    with dg.DagsterInstance.ephemeral() as instance:
        job = definitions.resolve_job_def(INGEST_JOB)
        return job.execute_in_process(run_config=quiet, instance=instance, raise_on_error=False).success


ingest_schedule = dg.ScheduleDefinition(
    name="ingest_logins_every_five_minutes",
    job_name=INGEST_JOB,
    cron_schedule="*/5 * * * *",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="An alternative to queue_depth_sensor: turn that one off when you turn this one on.",
)


INSIGHTS_JOB = "refresh_insights"


def insights_job() -> "UnresolvedAssetJobDefinition":
    """Return the job that computes duplicates and daily counts of some days anew."""
    return dg.define_asset_job(
        INSIGHTS_JOB,
        selection=dg.AssetSelection.groups(INSIGHTS) - _NOT_WITH_EVERY_RUN,
        description="Duplicates and daily counts of one day or more, computed anew from user_logins.",
        tags={"dagster/max_runtime": "3600"},
    )


@dg.op
def create_and_drop_partitions(context: dg.OpExecutionContext, postgres: PostgresResource) -> None:
    """Create the coming partitions, and drop the ledger's that are older than any message on a queue can be."""
    result = postgres.run(partial(maintain, today=datetime.now(UTC).date()))
    context.log.info("created %d partitions, dropped %d", len(result.created), len(result.dropped))
    context.add_output_metadata(
        {
            "created": dg.MetadataValue.json(result.created),
            "dropped": dg.MetadataValue.json(result.dropped),
            "left_alone": dg.MetadataValue.json(result.left_alone),
            "rows_in_default_partitions": dg.MetadataValue.json(result.rows_in_default),
        }
    )


@dg.job(
    description="Creates the coming partitions of user_logins and of the ledger; drops the ledger's expired ones.",
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


CHECK_JOB = "check_tables"


def check_job() -> "UnresolvedAssetJobDefinition":
    """Return the job that compares whole days and looks at whole partitions."""
    return dg.define_asset_job(
        CHECK_JOB,
        selection=dg.AssetSelection.checks(*DAILY_CHECKS),
        description="Once a day: ledger against table, default partitions, and yesterday against the days before.",
        tags={"dagster/max_runtime": "1800"},
    )


check_schedule = dg.ScheduleDefinition(
    name="check_tables_daily",
    job_name=CHECK_JOB,
    cron_schedule="30 1 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="When yesterday is over and has been counted, after maintain_partitions.",
)
