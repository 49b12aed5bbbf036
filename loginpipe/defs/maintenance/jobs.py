"""Define the jobs that maintain partitions and sum up old batches, and that delete old runs from Dagster's storage."""

import time
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import dagster as dg

from loginpipe.common.errors import LoginpipeError, runbook
from loginpipe.common.settings import Settings
from loginpipe.defs.metadata import downstream_tags
from loginpipe.defs.resources import PostgresResource
from loginpipe.postgres.batches import KEPT_DAYS, roll_up
from loginpipe.postgres.connections import Connection, connect
from loginpipe.postgres.dagster_storage import (
    LOCK_TIMEOUT,
    Cutoffs,
    delete_evaluations,
    delete_runs,
    needed,
    old_runs,
    require_known,
)
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


# Runs per transaction: about ten thousand events.
_RUNS_AT_ONCE = 200
# The limits of one execution. The next day's continues from there.
_MAX_RUNS = 50_000
_MAX_SECONDS = 1_800
# Each line of progress is a row in the storage that this job prunes.
_PROGRESS_SECONDS = 30


@dataclass
class _Counts:
    runs: int = 0
    events: int = 0
    evaluations: int = 0
    kept: int = 0
    more: bool = False


@dg.op
def delete_old_runs(context: dg.OpExecutionContext, settings: dg.ResourceParam[Settings]) -> None:
    """Delete runs that ended long enough ago, with their events and printed output.

    Raises:
        LoginpipeError: Dagster's storage is not in Postgres.
        SchemaError: the storage has unknown tables.
        DatabaseError: a statement failed. Earlier deletions stay.
    """
    cutoffs = Cutoffs.of(datetime.now(UTC), settings.keep_runs_days)
    with closing(connect(_url(context.instance), lock_timeout=LOCK_TIMEOUT)) as connection:
        counts = _delete(context, connection, cutoffs)
    context.log.info("deleted %d runs with %d events", counts.runs, counts.events)
    if counts.more:
        context.log.info("more runs are old enough: the next run of this job deletes them")
    context.add_output_metadata(
        {
            "runs": counts.runs,
            "events": counts.events,
            "check_evaluations": counts.evaluations,
            "kept_as_newest": counts.kept,
            "more_to_delete": counts.more,
        }
    )


@dg.job(
    description=(
        "Deletes runs older than LOGINPIPE_KEEP_RUNS_DAYS from Dagster's storage, with their events and printed "
        "output; failed and cancelled runs after 30 days. Runs with the newest materialization of an asset or "
        "partition, or the newest evaluation of a check, are kept."
    ),
    tags=downstream_tags("prune_dagster_storage", longest_seconds=3600),
)
def prune_dagster_storage() -> None:
    """Delete old runs once a day."""
    delete_old_runs()


PRUNING_SCHEDULE = "prune_dagster_storage_daily"

pruning_schedule = dg.ScheduleDefinition(
    name=PRUNING_SCHEDULE,
    job=prune_dagster_storage,
    cron_schedule="45 0 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Every day at 00:45 UTC. Dagster itself deletes no runs.",
)


def _url(instance: dg.DagsterInstance) -> str:
    from dagster_postgres import PostgresEventLogStorage

    storage = instance.event_log_storage
    if not isinstance(storage, PostgresEventLogStorage):
        raise LoginpipeError(
            "Dagster's storage is not in Postgres, so nothing is deleted: set a Postgres storage in dagster.yaml"
        )
    return storage.postgres_url.replace("+psycopg2", "", 1)


def _delete(context: dg.OpExecutionContext, connection: Connection, cutoffs: Cutoffs) -> _Counts:
    require_known(connection)
    stays = needed(connection)
    logs = _PrintedLogs(context)
    counts = _Counts()
    began = logged = time.monotonic()
    after = 0
    while old := old_runs(connection, cutoffs, stays, after=after, limit=_RUNS_AT_ONCE):
        after = old[-1].id
        run_ids = [run.run_id for run in old if not run.needed]
        counts.kept += len(old) - len(run_ids)
        if run_ids:
            # Delete the output first: nothing can find the output of a deleted run.
            logs.delete(run_ids)
            runs, events = delete_runs(connection, run_ids)
            counts.runs += runs
            counts.events += events
        if counts.runs >= _MAX_RUNS or time.monotonic() - began >= _MAX_SECONDS:
            counts.more = True
            break
        if time.monotonic() - logged >= _PROGRESS_SECONDS:
            logged = time.monotonic()
            context.log.info("so far: deleted %d runs with %d events", counts.runs, counts.events)
    counts.evaluations = delete_evaluations(connection, cutoffs.succeeded, stays)
    return counts


class _PrintedLogs:
    """The printed output of runs, where ``compute_logs`` of ``dagster.yaml`` stores it."""

    def __init__(self, context: dg.OpExecutionContext) -> None:
        self._context = context
        self._manager = context.instance.compute_log_manager
        self._failed = False

    def delete(self, run_ids: list[str]) -> None:
        """Delete output until one deletion fails. A bucket may use a lifecycle rule instead; the runs still go."""
        for run_id in run_ids:
            if self._failed:
                return
            try:
                self._manager.delete_logs(prefix=[run_id])
            except Exception as error:  # noqa: BLE001  each kind of manager has errors of its own
                self._failed = True
                self._context.log.info(
                    "the printed output of runs was not deleted (%s); see %s", type(error).__name__, runbook("old-runs")
                )
