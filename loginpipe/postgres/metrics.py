"""Read totals over all batches from the tables, so that a restart loses none. Counts and times, no values of logins."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from loginpipe.postgres.connections import Connection, fetch, rows_of, statement, transaction

_COUNTS = (
    "batches", "received", "inserted", "duplicates", "rejected", "deleted", "delete_failures", "leases_lost",
)  # fmt: skip


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


@dataclass(frozen=True)
class VaultTotals:
    """Postgres' estimate of the values in the vault; version of the token key → Unix time of its first use."""

    sealed_values: int
    key_versions: Mapping[int, float]


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


def read_vault(connection: Connection) -> VaultTotals:
    """Read the totals of vault and keys."""
    estimate = "SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = 'vault.sealed_values'::regclass"
    first_uses = "SELECT key_version, extract(epoch FROM created_at)::float8 FROM loginpipe.token_key_checks"
    ((sealed_values,),) = fetch(connection, estimate)
    return VaultTotals(sealed_values, dict(fetch(connection, first_uses)))


def _later(one: float | None, other: float | None) -> float | None:
    return max((time for time in (one, other) if time is not None), default=None)
