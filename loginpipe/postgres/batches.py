"""The record of each batch: what it received, what became of that, and how many rows each day got."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from loginpipe.logins.delays import DELAY_BOUNDS
from loginpipe.postgres.connections import Connection, Cursor, transaction
from loginpipe.postgres.statements import statement

KEPT_DAYS = 31
"""How long batches are kept one by one: ``loginpipe.drop_ledger_partition`` asks for those of 29 days. After that, sums
by hour."""

_FINISHED_WINDOW = timedelta(days=1)
REJECTS_WINDOW = timedelta(hours=1)
DELAYS_WINDOW = timedelta(minutes=15)


@dataclass(frozen=True)
class BatchRecord:
    """Counts of one batch, in messages; see ``docs/tables.md`` for each.

    Attributes:
        rejected: those that this batch recorded; the other bad ones are duplicates.
        rows_by_day: UTC date → rows inserted.
        delays: rows by their delay from sent to stored: `loginpipe.logins.delays`.
        delay_seconds: the sum of these delays.
        sealed: values that are new in the vault.
    """

    batch_id: str
    received: int
    accepted: int
    rejected: int
    inserted: int
    duplicates: int
    rows_by_day: Mapping[date, int]
    delays: Sequence[int]
    delay_seconds: float
    sealed: int = 0


@dataclass(frozen=True)
class Finished:
    """What became of the deletes of a batch, in messages."""

    batch_id: str
    deleted: int
    delete_failures: int
    leases_lost: int


@dataclass(frozen=True)
class RunCounts:
    """Sums over the batches of a run, in messages."""

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


def finish_batches(cursor: Cursor, finished: Sequence[Finished]) -> None:
    """Write what became of the deletes of batches that were recorded before."""
    if finished:
        cursor.execute(
            statement("finish_batches"),
            {
                "batch_ids": [batch.batch_id for batch in finished],
                "deleted": [batch.deleted for batch in finished],
                "delete_failures": [batch.delete_failures for batch in finished],
                "leases_lost": [batch.leases_lost for batch in finished],
            },
        )


def run_counts(connection: Connection, run_id: str, since: datetime) -> RunCounts:
    """Return the sums over the batches of a run.

    Args:
        connection: with no transaction open.
        run_id: the run.
        since: when it began, or earlier; aware.
    """
    with transaction(connection) as cursor:
        cursor.execute(statement("batch_sums"), {"run_id": run_id, "since": since})
        ((*counts,),) = cursor.fetchall()
    return RunCounts(*map(int, counts))


def roll_up(connection: Connection, today: date) -> int:
    """Move batches older than `KEPT_DAYS` into the sums of their hours, an hour a transaction.

    Returns:
        How many hours were moved.
    """
    before = datetime.combine(today - timedelta(days=KEPT_DAYS), datetime.min.time(), UTC)
    hours = 0
    while True:
        with transaction(connection) as cursor:
            cursor.execute("SELECT date_trunc('hour', min(recorded_at), 'UTC') FROM loginpipe.batches")
            ((hour,),) = cursor.fetchall()
            if hour is None or hour >= before:
                return hours
            cursor.execute(statement("roll_up_batches"), {"hour": hour})
        hours += 1


@dataclass(frozen=True)
class BatchesWithoutRun:
    """Sums over batches of one queue that were recorded outside of Dagster, in messages.

    Attributes:
        until: the end of the time that was looked at, by the database's clock: where the next look begins.
        sent: the oldest and the newest SentTimestamp; None where there are no batches.
        newest: when the newest batch was recorded; None where there is none.
        delays: rows by their delay from sent to stored: `loginpipe.logins.delays`.
        rows_by_day: UTC date → rows inserted.
        reasons: reason → messages that these batches rejected for it.
    """

    until: datetime
    batches: int
    received: int
    accepted: int
    rejected: int
    inserted: int
    duplicates: int
    sent: tuple[datetime, datetime] | None
    newest: datetime | None
    delays: Sequence[int]
    rows_by_day: Mapping[str, int]
    reasons: Mapping[str, int]


def batches_without_run(
    connection: Connection, queue: str, since: datetime | None, *, first_seconds: float, settled_seconds: float
) -> BatchesWithoutRun:
    """Sum up the batches of one queue that were recorded outside of Dagster.

    Args:
        connection: with no transaction open.
        queue: the queue's name.
        since: the ``until`` of the look before this one; None for the first one.
        first_seconds: how far the first look goes back.
        settled_seconds: how long ago a batch must have been recorded: it has its time before its transaction is over.
    """
    with transaction(connection) as cursor:
        cursor.execute(
            statement("batches_without_run"),
            {"queue": queue, "since": since, "first": first_seconds, "settled": settled_seconds},
        )
        ((until, *counts, oldest, newest, recorded, delays, rows_by_day, reasons),) = cursor.fetchall()
    batches, received, accepted, rejected, inserted, duplicates = map(int, counts)
    return BatchesWithoutRun(
        until=until,
        batches=batches,
        received=received,
        accepted=accepted,
        rejected=rejected,
        inserted=inserted,
        duplicates=duplicates,
        sent=(oldest, newest) if oldest else None,
        newest=recorded,
        delays=delays or (0,) * (len(DELAY_BOUNDS) + 1),
        rows_by_day=rows_by_day,
        reasons=reasons,
    )


@dataclass(frozen=True)
class RecentBatches:
    """What batches of one queue came to of late: whether they are finished, what was rejected, how late logins are.

    Attributes:
        last_finished: when the newest batch was finished, of those recorded within a day; None where there is none.
        received: messages taken within the last hour.
        rejected: those of them that were rejected as bad.
        delays: logins stored within the last 15 minutes, by delay: `loginpipe.logins.delays`.
    """

    last_finished: datetime | None
    received: int
    rejected: int
    delays: tuple[int, ...]


def recent_batches(connection: Connection, queue: str, now: datetime) -> RecentBatches:
    """Read what batches of one queue came to of late; by index, whatever the number of batches so far."""
    with transaction(connection) as cursor:
        cursor.execute(
            statement("recent_batches"),
            {
                "queue": queue,
                "since": now - _FINISHED_WINDOW,
                "rejects_since": now - REJECTS_WINDOW,
                "delays_since": now - DELAYS_WINDOW,
            },
        )
        ((last_finished, received, rejected, delays),) = cursor.fetchall()
    return RecentBatches(last_finished, received, int(rejected), tuple(delays) or (0,) * (len(DELAY_BOUNDS) + 1))
