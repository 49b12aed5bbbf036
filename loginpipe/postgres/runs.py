"""The books of runs: a row each in ``ingest_runs``, opened when its messages are judged, closed after the deletes."""

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from loginpipe.logins.delays import DELAY_BOUNDS
from loginpipe.postgres.connections import Connection, Cursor, transaction
from loginpipe.postgres.statements import statement

_RUNS_WINDOW = timedelta(days=1)
REJECTS_WINDOW = timedelta(hours=1)
DELAYS_WINDOW = timedelta(minutes=15)


@dataclass(frozen=True)
class Arrival:
    """What a run took from the queue. Times are aware; ``None`` where it took nothing."""

    run_id: str
    queue: str
    started_at: datetime
    received: int
    accepted: int
    oldest_sent_at: datetime | None
    newest_sent_at: datetime | None


@dataclass(frozen=True)
class RunCounts:
    """Counts of one run, in messages; see ``docs/tables.md`` for each."""

    received: int
    accepted: int
    rejected: int
    inserted: int
    duplicates: int
    deleted: int
    delete_failures: int
    leases_lost: int

    @property
    def unaccounted(self) -> int:
        """Messages received that are neither a row, nor a reject, nor a duplicate: 0 unless something is wrong."""
        return self.received - self.inserted - self.duplicates - self.rejected


def open_run(cursor: Cursor, arrival: Arrival, *, rejected: int) -> None:
    """Open a run's row; does nothing where the same run has opened it before.

    Args:
        cursor: in the transaction that records the rejects.
        arrival: what was received.
        rejected: messages that this run recorded as rejected; the other bad ones are duplicates.
    """
    duplicates = arrival.received - arrival.accepted - rejected
    cursor.execute(statement("open_run"), asdict(arrival) | {"rejected": rejected, "duplicates": duplicates})


def close_run(connection: Connection, run_id: str, *, deleted: int, delete_failures: int, leases_lost: int) -> None:
    """Write what became of the deletes, and that the run has ended."""
    with transaction(connection) as cursor:
        cursor.execute(
            statement("close_run"),
            {"run_id": run_id, "deleted": deleted, "delete_failures": delete_failures, "leases_lost": leases_lost},
        )


def run_counts(connection: Connection, run_id: str) -> RunCounts | None:
    """Return the counts of a run, of the newest finished one where it has no row, or None where there is none."""
    with transaction(connection) as cursor:
        cursor.execute(statement("run_counts"), {"run_id": run_id})
        rows = cursor.fetchall()
    return RunCounts(*rows[0]) if rows else None


@dataclass(frozen=True)
class RecentRuns:
    """What the runs on one queue have done of late: whether they end well, what they set aside, how late logins are.

    Attributes:
        last_finished: newest end of a run that ended well, of those begun within a day; None where there is none.
        received: messages taken within the last hour.
        rejected: those of them that were set aside as bad.
        delays: logins stored within the last 15 minutes, by delay: `loginpipe.logins.delays`.
    """

    last_finished: datetime | None
    received: int
    rejected: int
    delays: tuple[int, ...]


def recent_runs(connection: Connection, queue: str, now: datetime) -> RecentRuns:
    """Read what the runs on one queue have done of late; by index, whatever the number of runs so far."""
    with transaction(connection) as cursor:
        cursor.execute(
            statement("recent_runs"),
            {
                "queue": queue,
                "since": now - _RUNS_WINDOW,
                "rejects_since": now - REJECTS_WINDOW,
                "delays_since": now - DELAYS_WINDOW,
            },
        )
        ((last_finished, received, rejected, delays),) = cursor.fetchall()
    return RecentRuns(last_finished, received, int(rejected), tuple(delays) or (0,) * (len(DELAY_BOUNDS) + 1))
