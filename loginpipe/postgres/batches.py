"""Read and write the record of each batch: what it received, the outcome, and how many rows each day got.

Totals over all batches come from the tables, so that a restart loses none: counts and times, no values of logins.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

from loginpipe.logins.delays import DELAY_BOUNDS
from loginpipe.postgres.connections import Connection, Cursor, fetch, rows_of, transaction
from loginpipe.postgres.statements import statement

KEPT_DAYS = 31
"""How long single batches are kept; after that, sums by hour. ``loginpipe.drop_ledger_partition`` needs 29 days."""

_COUNTS = (
    "batches", "received", "inserted", "duplicates", "rejected", "deleted", "delete_failures", "leases_lost",
)  # fmt: skip


@dataclass(frozen=True)
class BatchRecord:
    """Counts of one batch, in messages; ``docs/tables.md`` explains each.

    Attributes:
        rejected: those that this batch recorded; other invalid ones are duplicates.
        rows_by_day: UTC date → rows inserted.
        delays, delay_seconds: rows by their delay from sent to stored, as in `loginpipe.logins.delays`, and its sum.
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


class Finished(NamedTuple):
    """The results of the deletes of a batch, in messages."""

    batch_id: str
    deleted: int
    delete_failures: int
    leases_lost: int


class RunCounts(NamedTuple):
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
        """Return the received messages that are neither row, nor reject, nor duplicate: 0 unless something is wrong."""
        return self.received - self.inserted - self.duplicates - self.rejected


def finish_batches(cursor: Cursor, finished: Sequence[Finished]) -> None:
    """Write the results of the deletes of batches that were recorded before."""
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
    """Return the sums over the batches of a run, which started at ``since`` (aware) or later."""
    ((*counts,),) = fetch(connection, statement("batch_sums"), {"run_id": run_id, "since": since})
    return RunCounts(*counts)


def roll_up(connection: Connection, today: date) -> int:
    """Move batches older than `KEPT_DAYS` into hourly sums, one hour per transaction; return the number of hours."""
    before = datetime.combine(today - timedelta(days=KEPT_DAYS), datetime.min.time(), UTC)
    hours = 0
    while True:
        with transaction(connection) as cursor:
            query = "SELECT date_trunc('hour', min(recorded_at), 'UTC') FROM loginpipe.batches"
            ((hour,),) = rows_of(cursor, query)
            if hour is None or hour >= before:
                return hours
            cursor.execute(statement("roll_up_batches"), {"hour": hour})
        hours += 1


class BatchesWithoutRun(NamedTuple):
    """Sums over batches of one queue that were recorded outside of Dagster, in messages.

    Attributes:
        until: the end of the time span, by the database's clock: where the next call starts.
        sent: the oldest and the newest SentTimestamp; None without batches.
        newest: when the newest batch was recorded; None without batches.
        delays: rows by their delay from sent to stored: `loginpipe.logins.delays`; empty without batches.
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
    sent: Sequence[datetime] | None
    newest: datetime | None
    delays: Sequence[int]
    rows_by_day: Mapping[str, int]
    reasons: Mapping[str, int]


def batches_without_run(
    connection: Connection, queue: str, since: datetime | None, *, first_seconds: float, settled_seconds: float
) -> BatchesWithoutRun:
    """Sum up the batches of one queue that were recorded outside of Dagster.

    ``since`` is the ``until`` of the previous call. Without it, the sums go back ``first_seconds``. Batches must be
    ``settled_seconds`` old, because the time of a batch is set before its transaction commits.
    """
    span = {"queue": queue, "since": since, "first": first_seconds, "settled": settled_seconds}
    ((*found,),) = fetch(connection, statement("batches_without_run"), span)
    return BatchesWithoutRun(*found)


class RecentBatches(NamedTuple):
    """Recent batches of one queue.

    Attributes:
        last_finished: when the newest batch of the last day finished; None without one.
        received, rejected: messages of the last hour; those that were rejected as invalid.
        delays: logins stored within the last 15 minutes, by delay: `loginpipe.logins.delays`.
    """

    last_finished: datetime | None
    received: int
    rejected: int
    delays: tuple[int, ...]


def recent_batches(connection: Connection, queue: str, now: datetime) -> RecentBatches:
    """Read the recent batches of one queue. Uses an index, so older batches do not slow it down."""
    spans = {
        "since": now - timedelta(days=1),
        "rejects_since": now - timedelta(hours=1),
        "delays_since": now - timedelta(minutes=15),
    }
    ((last, received, rejected, delays),) = fetch(connection, statement("recent_batches"), {"queue": queue, **spans})
    return RecentBatches(last, received, rejected, tuple(delays) or (0,) * (len(DELAY_BOUNDS) + 1))


@dataclass(frozen=True)
class QueueTotals:
    """Totals of the batches of one queue.

    Attributes:
        counts: ``batches``, and messages by outcome, as in ``docs/tables.md``.
        delays, delay_seconds: rows by their delay from sent to stored, as in `loginpipe.logins.delays`, and its sum.
        last_finished, newest_stored: when the newest batch finished, and the newest SentTimestamp in a recorded batch,
            as Unix time in seconds; None without one.
    """

    counts: Counter[str]
    delays: tuple[int, ...]
    delay_seconds: float
    last_finished: float | None
    newest_stored: float | None

    def __add__(self, other: "QueueTotals") -> "QueueTotals":
        return QueueTotals(
            self.counts + other.counts,
            tuple(map(sum, zip(self.delays, other.delays, strict=True))),
            self.delay_seconds + other.delay_seconds,
            _later(self.last_finished, other.last_finished),
            _later(self.newest_stored, other.newest_stored),
        )


@dataclass(frozen=True)
class Totals:
    """Batches and rejects of a time span. They can be added.

    Attributes:
        queues: queue → its totals, for each queue with batches.
        rejects: reason code and field → violations; a message can have several.
    """

    queues: Mapping[str, QueueTotals]
    rejects: Counter[tuple[str, str]]

    def __add__(self, other: "Totals") -> "Totals":
        queues = dict(self.queues)
        for name, totals in other.queues.items():
            queues[name] = queues[name] + totals if name in queues else totals
        return Totals(queues, self.rejects + other.rejects)


def read_totals(connection: Connection, *, since: datetime | None = None, until: datetime | None = None) -> Totals:
    """Read the totals of the batches recorded, and of the rejects received, in a time span.

    ``since`` (inclusive) and ``until`` (exclusive) are aware; None means no limit.
    """
    span = {"since": since or "-infinity", "until": until or "infinity", "with_hours": since is None}
    with transaction(connection) as cursor:
        queues = {
            queue: QueueTotals(Counter(dict(zip(_COUNTS, row, strict=False))), tuple(row[-4]), *row[-3:])
            for queue, *row in rows_of(cursor, statement("metric_batches"), span)
        }
        rejects = rows_of(cursor, statement("metric_rejects"), span)
    return Totals(queues, Counter({(reason, field): number for reason, field, number in rejects}))


def _later(one: float | None, other: float | None) -> float | None:
    return max((time for time in (one, other) if time is not None), default=None)
