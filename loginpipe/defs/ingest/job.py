"""Define the ingest job, which runs the whole chain, and the schedule that can replace its sensor."""

from math import ceil
from typing import TYPE_CHECKING

import dagster as dg

from loginpipe.common.settings import Settings
from loginpipe.defs.maintenance import DAILY_CHECKS
from loginpipe.defs.metadata import CHAIN, GROUP
from loginpipe.defs.monitoring.queue_checks import freshness, no_dead_letters

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

INGEST_JOB = "ingest_logins"
QUEUE_TAG = "loginpipe/queue"
"""Run tag with the queue's name. ``dagster.yaml`` limits the number of runs per queue by it."""

_MAX_RUNTIME_TAG = "dagster/max_runtime"

GRACE_SECONDS = 300
"""Time after ``run_seconds`` until Dagster ends a run. A run whose process died stays STARTED and active until then."""


def run_tags(settings: Settings) -> dict[str, str]:
    """Return the tags of a run of the chain: its queue, priority, maximum runtime and retry strategy."""
    return {
        QUEUE_TAG: settings.queue_name,
        # Ahead of all other runs in the run queue.
        "dagster/priority": "1",
        _MAX_RUNTIME_TAG: str(ceil(settings.run_seconds) + GRACE_SECONDS),
        # A killed run restarts from the beginning: its messages are back on the queue.
        "dagster/retry_strategy": "ALL_STEPS",
    }


def tag_run(instance: dg.DagsterInstance, run: dg.DagsterRun, settings: Settings) -> None:
    """Add the tags that sensor, alerts, run monitoring and retries need to a run of the assets, which lacks the job's.

    A run that includes other assets keeps the maximum runtime of ``dagster.yaml``: these may take longer.
    """
    missing = {name: value for name, value in run_tags(settings).items() if name not in run.tags}
    if not of_the_chain_alone(run):
        missing.pop(_MAX_RUNTIME_TAG, None)
    if missing:
        instance.add_run_tags(run.run_id, missing)


def of_the_chain_alone(run: dg.DagsterRun) -> bool:
    """Return True if a run has no steps outside the chain."""
    selected = run.asset_selection
    return run.job_name == INGEST_JOB or (
        selected is not None and {key.to_user_string() for key in selected} <= set(CHAIN)
    )


# Runs do not wait for checks of whole days, nor for checks that a sensor evaluates.
_NOT_WITH_EVERY_RUN = dg.AssetSelection.checks(*DAILY_CHECKS, freshness, no_dead_letters)


def ingest_job(settings: Settings) -> "UnresolvedAssetJobDefinition":
    """Return the job that loads batches from the queue through the whole chain."""
    return dg.define_asset_job(
        INGEST_JOB,
        selection=dg.AssetSelection.groups(GROUP) - _NOT_WITH_EVERY_RUN,
        description="Loads messages from the login queue into user_logins, batch after batch.",
        tags=run_tags(settings),
    )


def run_in_process(definitions: dg.Definitions) -> bool:
    """Run the ingest job once in this process, without storage, and log errors only. Return True if it succeeded."""
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
