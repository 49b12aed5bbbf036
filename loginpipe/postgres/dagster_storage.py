"""Measure Dagster's own storage in Postgres by SQL, and delete its old runs.

``docs/decisions.md`` explains why this does not use Dagster's API.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from loginpipe.common.errors import SchemaError
from loginpipe.common.settings import connects_by_token, in_production
from loginpipe.postgres.connections import (
    Connection,
    Cursor,
    fetch,
    require_verified_tls,
    rows_of,
    secured,
    transaction,
)
from loginpipe.postgres.statements import statement

FAILED_RUNS_DAYS = 30
"""How long failed and cancelled runs are kept at least, so that last month's problems can be investigated."""

# The columns that the statements here use, by type.
_COLUMNS = {
    "bigint": (
        "runs.id", "event_logs.id", "asset_event_tags.event_id", "asset_check_executions.id",
        "asset_check_executions.evaluation_event_storage_id",
    ),
    "character varying": (
        "runs.run_id", "runs.status", "run_tags.run_id", "event_logs.run_id", "asset_keys.last_run_id",
        "asset_check_executions.run_id", "asset_check_executions.execution_status",
    ),
    "text": (
        "event_logs.dagster_event_type", "event_logs.asset_key", "event_logs.partition",
        "asset_check_executions.asset_key", "asset_check_executions.check_name", "asset_check_executions.partition",
        "concurrency_slots.run_id", "pending_steps.run_id",
    ),
    "double precision": ("runs.end_time",),
    "timestamp without time zone": (
        "runs.update_timestamp", "event_logs.timestamp", "asset_check_executions.create_timestamp",
    ),
}  # fmt: skip
LOCK_TIMEOUT = "5s"
"""The lock timeout of a connection that deletes, because a waiting lock request blocks all later requests."""
# The number of rows that one transaction processes.
_ROWS = 5_000


class Cutoffs(NamedTuple):
    """The times (aware) before which a run must have ended to be deleted."""

    succeeded: datetime
    failed: datetime

    @classmethod
    def of(cls, now: datetime, keep_days: int) -> "Cutoffs":
        """Return the cutoffs of a setting in days."""
        return cls(now - timedelta(days=keep_days), now - timedelta(days=max(keep_days, FAILED_RUNS_DAYS)))


class Needed(NamedTuple):
    """What stays regardless of its age: newest evaluations, last runs of assets, and runs with concurrency slots."""

    runs: Sequence[str]
    checks: Sequence[int]
    check_events: Sequence[int]


class OldRun(NamedTuple):
    """A run that ended long enough ago. It is needed if it holds a newest materialization or evaluation."""

    id: int
    run_id: str
    needed: bool


class Usage(NamedTuple):
    """How much the storage holds: bytes of the database, and of the events with their indexes.

    ``oldest`` is the earliest end of a run, ``events_of_a_day`` the events of the last 24 hours.
    """

    size: int
    event_bytes: int
    runs: int
    oldest: datetime | None
    events: int
    events_of_a_day: int

    @property
    def bytes_a_day(self) -> int:
        """Return the size of the last day's events, by the average size of all events."""
        return self.event_bytes * self.events_of_a_day // self.events if self.events else 0


def verify_connections() -> None:
    """Let Dagster connect to its storage in this process as `connect` does: with verified TLS, or with a token.

    Dagster connects through SQLAlchemy, which calls this hook for each new connection, before it sends anything.
    """
    if not (in_production() or connects_by_token()):
        return
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    if not event.contains(Engine, "do_connect", _connect):
        event.listen(Engine, "do_connect", _connect)


def _connect(dialect: Any, _record: object, arguments: list[Any], parameters: dict[str, Any]) -> Any:
    """Return the connection that SQLAlchemy needs; None for databases other than Postgres, which it opens itself."""
    if dialect.name != "postgresql":
        return None
    connection = dialect.connect(*arguments, **secured({name: str(value) for name, value in parameters.items()}))
    require_verified_tls(connection)
    return connection


def require_known(connection: Connection) -> None:
    """Raise SchemaError if a table or column that this module knows differs, or an unknown table refers to runs."""
    there = dict(fetch(connection, statement("dagster_columns")))
    known = {column: kind for kind, columns in _COLUMNS.items() for column in columns}
    unlike = [column for column, kind in known.items() if there.get(column) != kind]
    unlike += [column for column in there if column.endswith(".run_id") and column not in known]
    if unlike:
        raise SchemaError(
            f"Dagster's storage is not as this version of loginpipe knows it ({', '.join(sorted(unlike))}), so nothing "
            "is deleted: run `dagster instance migrate`, or upgrade loginpipe"
        )


def needed(connection: Connection) -> Needed:
    """Read what stays regardless of its age, except the newest materializations, which `old_runs` finds."""
    checks = fetch(connection, statement("dagster_newest_checks"))
    last_runs = fetch(connection, statement("dagster_last_runs"))
    return Needed(
        runs=[*(run_id for (run_id,) in last_runs), *(run_id for _, run_id, _ in checks if run_id)],
        checks=[row for row, _, _ in checks],
        check_events=[event for _, _, event in checks if event is not None],
    )


def old_runs(
    connection: Connection, cutoffs: Cutoffs, stays: Needed, *, after: int = 0, limit: int
) -> Sequence[OldRun]:
    """Return finished runs that are old enough, in the order of their ids, from beyond ``after``."""
    wanted = {
        "after": after,
        "succeeded_before": cutoffs.succeeded.timestamp(),
        "failed_before": cutoffs.failed.timestamp(),
        "newest": list(stays.runs),
        "limit": limit,
    }
    return [OldRun(*row) for row in fetch(connection, statement("dagster_old_runs"), wanted)]


def delete_runs(connection: Connection, run_ids: Sequence[str]) -> tuple[int, int]:
    """Delete finished runs with their tags and events, in one transaction; return the numbers of runs and events."""
    with _deleting(connection) as cursor:
        ((runs, events),) = rows_of(cursor, statement("dagster_delete_runs"), {"run_ids": list(run_ids)})
    return runs, events


def delete_evaluations(connection: Connection, before: datetime, stays: Needed) -> int:
    """Delete old evaluations of checks without a run, and old reports of sensors; return the number of evaluations.

    Each transaction deletes some thousand. Deleting a run leaves its evaluations, also through Dagster's API, and a
    sensor's reports never had a run.
    """
    ids = "SELECT coalesce(min(id), 0) - 1, coalesce(max(id), -1) FROM asset_check_executions"
    ((first, last),) = fetch(connection, ids)
    deleted = 0
    for after in range(first, last, _ROWS):
        span = {"after": after, "through": after + _ROWS, "before": before, "newest": list(stays.checks)}
        with _deleting(connection) as cursor:
            cursor.execute(statement("dagster_delete_checks"), span)
            deleted += cursor.rowcount
    reports, wanted = _ROWS, {"before": before, "newest": list(stays.check_events), "limit": _ROWS}
    while reports == _ROWS:
        with _deleting(connection) as cursor:
            ((reports,),) = rows_of(cursor, statement("dagster_delete_reports"), wanted)
    return deleted


def usage(connection: Connection) -> Usage:
    """Return how much the storage holds. It counts every event in an index."""
    ((*found,),) = fetch(connection, statement("dagster_usage"), {"since": datetime.now(UTC) - timedelta(days=1)})
    return Usage(*found)


@contextmanager
def _deleting(connection: Connection) -> Iterator[Cursor]:
    """Open a transaction to delete in. Only one runs at a time, although every code location has a job that deletes.

    Two transactions that delete the same rows could deadlock.
    """
    with transaction(connection) as cursor:
        # Only migrations of Dagster write to this table. Any role could take an advisory lock.
        cursor.execute("LOCK TABLE alembic_version IN EXCLUSIVE MODE")
        yield cursor
