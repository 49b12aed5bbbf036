"""The deduplication ledger: which messages have an outcome, which batch recorded it, and whether the tables agree.

A message has one row in the ledger, and with it, in the same transaction, one in ``user_logins`` or in
``rejected_messages``. A replay or a redrive is under the date of its first sending on both sides. So, of each day:
rows = messages in the ledger - rejects - rows that erasures have taken since + rows that others have written.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from loginpipe.common.errors import DatabaseError
from loginpipe.postgres.connections import Connection, transaction
from loginpipe.postgres.statements import statement

_COUNTING_TIMEOUT = "5min"
_TIMED_OUT = "57014"


def recorded(connection: Connection, message_ids: Sequence[str]) -> frozenset[str]:
    """Return the ids of those messages that have an outcome, of whatever day."""
    with transaction(connection) as cursor:
        cursor.execute(statement("recorded_messages"), (list(message_ids),))
        return frozenset(message_id for (message_id,) in cursor)


@dataclass(frozen=True)
class LedgerDay:
    """A day in the ledger, and in the tables.

    Attributes:
        recorded: messages in the ledger.
        rejected: those of them that were rejected.
        rows: logins in ``user_logins``.
        erased_since: whether a user was erased on that day or later: no one may know which rows went.
        ours_alone: whether the pipeline ran before that day began. On its first day, and before that, rows may
            be there that another loader has written.
    """

    day: date
    recorded: int
    rejected: int
    rows: int
    erased_since: bool
    ours_alone: bool

    @property
    def missing(self) -> int:
        """Rows that should be there and are not: below zero, rows that no message in the ledger stands for."""
        return self.recorded - self.rejected - self.rows

    @property
    def lost(self) -> bool:
        """Whether rows are missing that no erasure can have taken."""
        return self.missing > 0 and not self.erased_since

    @property
    def agrees(self) -> bool:
        """Whether there is nothing to be said about the day."""
        return self.missing == 0 or (self.missing < 0 and not self.ours_alone)

    def __str__(self) -> str:
        if self.missing > 0:
            why = ", maybe those of users who were erased since" if self.erased_since else ": they are lost"
            return f"{self.day}: {self.missing:,} rows are missing that the ledger has messages of{why}"
        return (
            f"{self.day}: {-self.missing:,} rows more than the ledger has messages of: something else has written them"
        )


def read_ledger_days(connection: Connection, first: date, last: date) -> Sequence[LedgerDay] | None:
    """Count both sides of the days from ``first`` to ``last``, as of one moment; in days' order.

    Reads the days' partitions of the ledger, and of ``user_logins`` whatever holds these days: partitions of whole
    months, or all of an adopted table without an index on ``create_date``. The ledger must still have the first day.

    Returns:
        The days; None where counting took longer than five minutes.
    """
    try:
        with transaction(connection) as cursor:
            cursor.execute("SELECT set_config('statement_timeout', %s, true)", (_COUNTING_TIMEOUT,))
            cursor.execute(statement("ledger_by_day"), {"first": first, "last": last})
            return [LedgerDay(*row) for row in cursor]
    except DatabaseError as error:
        if error.sqlstate == _TIMED_OUT:
            return None
        raise
