"""The deduplication ledger: which messages have an outcome, and whether it agrees with the tables; rejected messages.

A message has one row in the ledger and, from the same transaction, one in ``user_logins`` or ``rejected_messages``. A
replay or redrive has the date of its first sending in both. So for each day: rows = messages in the ledger - rejects -
rows erased since + rows that others have written.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import NamedTuple

from loginpipe.common.errors import DatabaseError
from loginpipe.postgres.connections import Connection, fetch, rows_of, transaction
from loginpipe.postgres.statements import statement

_TIMED_OUT = "57014"


def recorded(connection: Connection, message_ids: Sequence[str]) -> frozenset[str]:
    """Return the ids of those messages that have an outcome, on any day."""
    found = fetch(connection, statement("recorded_messages"), (list(message_ids),))
    return frozenset(message_id for (message_id,) in found)


class LedgerDay(NamedTuple):
    """A day in the ledger and in the tables.

    Attributes:
        recorded, rejected: messages in the ledger; those of them that were rejected.
        rows: logins in ``user_logins``.
        erased_since: True if a user was erased on that day or later; which rows this removed is not recorded.
        ours_alone: True if the pipeline ran before that day. Otherwise another loader may have written rows.
    """

    day: date
    recorded: int
    rejected: int
    rows: int
    erased_since: bool
    ours_alone: bool

    @property
    def missing(self) -> int:
        """Return the number of missing rows; below zero, the number of rows without a message in the ledger."""
        return self.recorded - self.rejected - self.rows

    @property
    def lost(self) -> bool:
        """Return True if rows are missing that no erasure can have removed."""
        return self.missing > 0 and not self.erased_since

    @property
    def agrees(self) -> bool:
        """Return True if there is nothing to report about the day."""
        return self.missing == 0 or (self.missing < 0 and not self.ours_alone)

    def __str__(self) -> str:
        if self.missing > 0:
            why = ", maybe those of users who were erased since" if self.erased_since else ": they are lost"
            return f"{self.day}: {self.missing:,} rows are missing that the ledger has messages of{why}"
        more = f"{-self.missing:,} rows more than the ledger has messages of"
        return f"{self.day}: {more}: something else has written them"


def read_ledger_days(connection: Connection, first: date, last: date) -> Sequence[LedgerDay] | None:
    """Count both sides of the days from ``first`` to ``last`` in one snapshot, in the order of the days.

    Reads the days' partitions of the ledger, and those of ``user_logins`` with these days: whole months, or all of an
    adopted table without an index on ``create_date``. The ledger must still have the first day. None if counting took
    longer than five minutes.
    """
    try:
        with transaction(connection) as cursor:
            cursor.execute("SET LOCAL statement_timeout = '5min'")
            rows = rows_of(cursor, statement("ledger_by_day"), {"first": first, "last": last})
            return [LedgerDay(*row) for row in rows]
    except DatabaseError as error:
        if error.sqlstate == _TIMED_OUT:
            return None
        raise


@dataclass(frozen=True)
class RejectFilter:
    """Which rejects to find. A criterion that is None does not apply.

    Attributes:
        since, until: by the time they were sent, ``until`` excluded.
        replayed: True to include those already replayed.
    """

    message_id: str | None = None
    reason: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    replayed: bool = False
    limit: int | None = None


@dataclass(frozen=True)
class Reject:
    """A rejected message without its body. Each reason belongs to the field at the same position."""

    message_id: str
    sent_at: datetime
    received_at: datetime
    reasons: list[str]
    fields: list[str]
    replayed_at: datetime | None

    @property
    def violations(self) -> str:
        """Return each violation as ``field: reason``."""
        return ", ".join(f"{field}: {reason}" for reason, field in zip(self.reasons, self.fields, strict=True))


def find_rejects(connection: Connection, wanted: RejectFilter) -> list[Reject]:
    """Return rejects, the newest first."""
    return [Reject(*row) for row in fetch(connection, statement("rejected_messages"), asdict(wanted))]
