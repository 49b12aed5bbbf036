"""Define the jobs that maintain partitions and sum up old batches, and that delete old runs from Dagster's storage."""

import time
from contextlib import closing
from datetime import UTC, datetime
from functools import partial

import dagster as dg

from loginpipe.common.errors import LoginpipeError, runbook
from loginpipe.common.settings import Settings
from loginpipe.defs.metadata import daily_schedule, downstream_job
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
    done = (len(result.created), len(result.dropped), hours)
    context.log.info("created %d partitions, dropped %d; summed up the batches of %d hours", *done)
    context.add_output_metadata(
        {
            "created": dg.MetadataValue.json(result.created),
            "dropped": dg.MetadataValue.json(result.dropped),
            "unmanaged": dg.MetadataValue.json(result.unmanaged),
            "rows_in_default_partitions": dg.MetadataValue.json(result.rows_in_default),
            "hours_rolled_up": hours,
        }
    )


maintain_partitions = downstream_job(
    create_and_drop_partitions,
    "maintain_partitions",
    description=(
        "Creates future partitions of user_logins and of the ledger, and drops expired ones of the ledger. Replaces "
        f"batches older than {KEPT_DAYS} days with hourly sums."
    ),
    longest_seconds=3600,
)


maintenance_schedule = daily_schedule(
    "maintain_partitions_daily",
    "maintain_partitions",
    "15 0 * * *",
    "Every day at 00:15 UTC, well before the newest partition is needed.",
)


# Runs per transaction: about ten thousand events.
_RUNS_AT_ONCE = 200
# The limits of one execution. The next day's continues from there.
_MAX_RUNS = 50_000
_MAX_SECONDS = 1_800
# Each line of progress is a row in the storage that this job prunes.
_PROGRESS_SECONDS = 30


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
    context.log.info("deleted %d runs with %d events", counts["runs"], counts["events"])
    if counts["more_to_delete"]:
        context.log.info("more runs are old enough: the next run of this job deletes them")
    context.add_output_metadata(counts)


prune_dagster_storage = downstream_job(
    delete_old_runs,
    "prune_dagster_storage",
    description=(
        "Deletes runs older than LOGINPIPE_KEEP_RUNS_DAYS from Dagster's storage, with their events and printed "
        "output; failed and cancelled runs after 30 days. Runs with the newest materialization of an asset or "
        "partition, or the newest evaluation of a check, are kept."
    ),
    longest_seconds=3600,
)


PRUNING_SCHEDULE = "prune_dagster_storage_daily"

pruning_schedule = daily_schedule(
    PRUNING_SCHEDULE,
    "prune_dagster_storage",
    "45 0 * * *",
    "Every day at 00:45 UTC. Dagster itself deletes no runs.",
)


def _url(instance: dg.DagsterInstance) -> str:
    from dagster_postgres import PostgresEventLogStorage

    storage = instance.event_log_storage
    if not isinstance(storage, PostgresEventLogStorage):
        raise LoginpipeError(
            "Dagster's storage is not in Postgres, so nothing is deleted: set a Postgres storage in dagster.yaml"
        )
    return storage.postgres_url.replace("+psycopg2", "", 1)


def _delete(context: dg.OpExecutionContext, connection: Connection, cutoffs: Cutoffs) -> dict[str, int]:
    """Delete what is old enough, within the limits of one execution, and return the metadata of the op."""
    require_known(connection)
    stays = needed(connection)
    runs = events = kept = after = 0
    more, delete_output = False, True
    began = logged = time.monotonic()
    while old := old_runs(connection, cutoffs, stays, after=after, limit=_RUNS_AT_ONCE):
        after = old[-1].id
        run_ids = [run.run_id for run in old if not run.needed]
        kept += len(old) - len(run_ids)
        if run_ids:
            # Delete the output first: nothing can find the output of a deleted run.
            delete_output = delete_output and _output_deleted(context, run_ids)
            deleted_runs, deleted_events = delete_runs(connection, run_ids)
            runs, events = runs + deleted_runs, events + deleted_events
        if runs >= _MAX_RUNS or time.monotonic() - began >= _MAX_SECONDS:
            more = True
            break
        if time.monotonic() - logged >= _PROGRESS_SECONDS:
            logged = time.monotonic()
            context.log.info("so far: deleted %d runs with %d events", runs, events)
    evaluations = delete_evaluations(connection, cutoffs.succeeded, stays)
    counts = {"runs": runs, "events": events, "check_evaluations": evaluations}
    return {**counts, "kept_as_newest": kept, "more_to_delete": more}


def _output_deleted(context: dg.OpExecutionContext, run_ids: list[str]) -> bool:
    """Delete printed output until one deletion fails. A bucket may use a lifecycle rule instead; the runs still go."""
    try:
        for run_id in run_ids:
            context.instance.compute_log_manager.delete_logs(prefix=[run_id])
    except Exception as error:  # noqa: BLE001  each kind of manager has errors of its own
        context.log.info(
            "the printed output of runs was not deleted (%s); see %s", type(error).__name__, runbook("old-runs")
        )
        return False
    return True
