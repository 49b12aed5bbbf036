"""Check Dagster's storage for `doctor`: the daemon, what starts runs, and the reports of monitoring_sensor."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from loginpipe.common.errors import DatabaseError, LoginpipeError
from loginpipe.common.settings import Settings
from loginpipe.defs.ingest.job import INGEST_JOB, QUEUE_TAG
from loginpipe.defs.maintenance import PRUNING_SCHEDULE
from loginpipe.postgres.connections import Connection, connect, transaction
from loginpipe.postgres.dagster_storage import Cutoffs, needed, old_runs, usage

if TYPE_CHECKING:
    from dagster._core.scheduler.instigation import InstigatorState
    from dagster_postgres import DagsterPostgresStorage

# The parts of the daemon send a heartbeat every half minute.
_MAX_SILENT = timedelta(minutes=5)
# monitoring_sensor reports at least once an hour.
_MAX_UNREPORTED = timedelta(hours=2)
# Today's pruning may still have to run, and one may have failed.
_MAX_UNPRUNED = timedelta(days=3)
# How many old runs to search for one that should be deleted. Kept runs come first, one per day.
_OLD_RUNS = 5_000
_PARTS = ("SENSOR", "SCHEDULER", "QUEUED_RUN_COORDINATOR", "MONITORING")
_SENSOR = "queue_depth_sensor"
_SCHEDULE = "ingest_logins_every_five_minutes"
_STARTS = "start `dagster-daemon run` (or `loginpipe dev`)"


def storage(_: Settings) -> str:
    """Check that Dagster's storage is reachable."""
    with _connected():
        return "reachable"


def old_runs_of(settings: Settings) -> str:
    """Check the storage's size and growth, and that old runs are deleted."""
    with _storage() as storage:
        if storage is None:
            return "empty"
        states = storage.schedule_storage.all_instigator_state()
    with _connected() as connection:
        held = usage(connection)
        cutoffs = Cutoffs.of(datetime.now(UTC) - _MAX_UNPRUNED, settings.keep_runs_days)
        overdue = old_runs(connection, cutoffs, needed(connection), limit=_OLD_RUNS)
    oldest = f", the oldest from {held.oldest:%Y-%m-%d}" if held.oldest else ""
    usage_now = (
        f"{_megabytes(held.size)} with {held.runs:,} runs{oldest}, and {held.events:,} events; in the last 24 hours "
        f"{held.events_of_a_day:,} events, about {_megabytes(held.bytes_a_day)}"
    )
    if {state.status.value for state in states if state.instigator_name == PRUNING_SCHEDULE} == {"STOPPED"}:
        return (
            f"warning: {usage_now}; {PRUNING_SCHEDULE} is off, so runs are never deleted: turn it on under Automation"
        )
    if any(not run.needed for run in overdue):
        return (
            f"warning: {usage_now}; some runs are older than LOGINPIPE_KEEP_RUNS_DAYS, {settings.keep_runs_days} days: "
            f"check the newest run of prune_dagster_storage, and the ticks of {PRUNING_SCHEDULE}"
        )
    return usage_now


def daemon(_: Settings) -> str:
    """Check the last heartbeat of each part of the daemon."""
    with _storage() as storage:
        beats = storage.run_storage.get_daemon_heartbeats() if storage else {}
    heard = {part: datetime.fromtimestamp(beats[part].timestamp, UTC) for part in _PARTS if part in beats}
    if not heard:
        return f"warning: never started on this storage, so no sensor and no schedule runs: {_STARTS}"
    silent = [part for part, at in heard.items() if datetime.now(UTC) - at > _MAX_SILENT]
    if silent:
        last = max(heard[part] for part in silent)
        raise LoginpipeError(f"no heartbeat since {last:%Y-%m-%d %H:%M} UTC ({', '.join(silent)}): {_STARTS}")
    return f"last heartbeat at {min(heard.values()):%H:%M:%S} UTC"


def automation(settings: Settings) -> str:
    """Check that the sensor, or the schedule that replaces it, is on."""
    if settings.consumer == "lambda":
        return "nothing in Dagster: LOGINPIPE_CONSUMER is lambda"
    with _storage() as storage:
        states = _of_our_location(storage, settings) if storage else []
    # States set in the UI. By default the sensor is on and the schedule is off.
    off = {state.instigator_name for state in states if state.status.value == "STOPPED"}
    on = {state.instigator_name for state in states if state.status.value == "RUNNING"}
    if _SENSOR not in off - on:
        return f"{_SENSOR} is on" + (f", and so is {_SCHEDULE}: turn one of them off" if _SCHEDULE in on else "")
    if _SCHEDULE in on:
        return f"{_SCHEDULE} is on"
    raise LoginpipeError(f"{_SENSOR} and {_SCHEDULE} are both off: turn one of them on, in the UI under Automation")


def freshness(_: Settings) -> str:
    """Read the last result of the check `freshness` and its time."""
    from loginpipe.defs.monitoring.queue_checks import FRESH

    with _storage() as storage:
        found = storage.event_log_storage.get_asset_check_summary_records([FRESH])[FRESH] if storage else None
    record = found.last_completed_check_execution_record if found else None
    evaluation = record.evaluation if record else None
    if record is None or evaluation is None:
        return "not evaluated yet: monitoring_sensor does so within a minute after the daemon starts"
    at = datetime.fromtimestamp(record.create_timestamp, UTC)
    if not evaluation.passed:
        raise LoginpipeError(f"stuck, as of {at:%Y-%m-%d %H:%M} UTC: {evaluation.description}")
    if datetime.now(UTC) - at > _MAX_UNREPORTED:
        raise LoginpipeError(
            f"not evaluated since {at:%Y-%m-%d %H:%M} UTC: check that the daemon runs and that monitoring_sensor is on"
        )
    return f"as of {at:%H:%M} UTC: {evaluation.description}"


DAGSTER_CHECKS = {
    "Dagster's storage": storage,
    "Dagster's old runs": old_runs_of,
    "Dagster's daemon": daemon,
    "what starts runs": automation,
    "freshness": freshness,
}
"""The checks for `loginpipe.monitoring.doctor.examine`."""


def _of_our_location(storage: "DagsterPostgresStorage", settings: Settings) -> "list[InstigatorState]":
    """Return the sensor and schedule states of the code location with runs on our queue; without such runs, of all."""
    from dagster import RunsFilter

    states = list(storage.schedule_storage.all_instigator_state())
    ours = RunsFilter(job_name=INGEST_JOB, tags={QUEUE_TAG: settings.queue_name})
    origins = [record.dagster_run.remote_job_origin for record in storage.run_storage.get_run_records(ours, limit=1)]
    names = {origin.repository_origin.code_location_origin.location_name for origin in origins if origin}
    return [s for s in states if not names or s.origin.repository_origin.code_location_origin.location_name in names]


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _url() -> str:
    url = os.environ.get("DAGSTER_POSTGRES_URL", "").strip()
    if not url.startswith("postgresql+psycopg2://"):
        raise LoginpipeError(
            "DAGSTER_POSTGRES_URL is unset or wrong: set it to a URL that begins with postgresql+psycopg2://"
        )
    return url


def _connected() -> "closing[Connection]":
    return closing(connect(_url().replace("+psycopg2", "", 1)))


@contextmanager
def _storage() -> "Iterator[DagsterPostgresStorage | None]":
    """Open the storage by its URL for reading; yield None if it was never used.

    A Dagster instance would need a dagster.yaml, and would create folders and tables.
    """
    with _connected() as connection, transaction(connection) as cursor:
        cursor.execute("SELECT to_regclass('daemon_heartbeats') IS NOT NULL")
        used = cursor.fetchone() == (True,)
    if not used:
        yield None
        return
    from dagster_postgres import DagsterPostgresStorage
    from sqlalchemy.exc import SQLAlchemyError

    storage = DagsterPostgresStorage(_url(), should_autocreate_tables=False)
    try:
        yield storage
    except SQLAlchemyError as error:
        raise DatabaseError(
            f"Dagster's storage cannot be read ({type(error).__name__}): run `dagster instance migrate`"
        ) from None
