"""Which users were erased: the tombstones that a run compares its logins with. Erasing itself is a custodian's."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from loginpipe.common.errors import DatabaseError
from loginpipe.postgres.connections import Connection, Cursor, transaction
from loginpipe.postgres.statements import statement

ERASURE_LOCK = int.from_bytes(b"lp-erase")
"""An erasure holds this advisory lock, a load shares it: ``vault.erase_user`` names the same number."""

_RAISED = "P0001"


@dataclass(frozen=True)
class Erased:
    """Who was erased, by the tombstones of their user ids.

    Attributes:
        erased_at: tombstone (32 bytes) → when that user was erased, the last time; aware.
        count: how many erasures there were; it changes with each, also with a second one of the same user.
    """

    erased_at: Mapping[bytes, datetime]
    count: int

    @property
    def tombstones(self) -> frozenset[bytes]:
        """The tombstones, whichever version of the token key they were made with."""
        return frozenset(self.erased_at)


def read_erased(connection: Connection) -> Erased:
    """Read which users were erased.

    Args:
        connection: with no transaction open.
    """
    with transaction(connection) as cursor:
        cursor.execute("SELECT tombstone, erased_at, times FROM loginpipe.erased_users")
        rows = cursor.fetchall()
    return Erased({bytes(tombstone): at for tombstone, at, _ in rows}, sum(times for _, _, times in rows))


def hold_off_erasures(cursor: Cursor, erasures: int | None) -> None:
    """Let no user be erased before this transaction ends, and make sure that none was since a run looked.

    Args:
        cursor: at the beginning of its transaction.
        erasures: `Erased.count` as the run knows it; None where it looked at no tombstones.

    Raises:
        DatabaseError: a user was erased meanwhile.
    """
    cursor.execute(statement("hold_off_erasures"), {"lock": ERASURE_LOCK})
    if erasures is None:
        return
    cursor.execute(statement("count_erasures"))
    if cursor.fetchone() != (erasures,):
        # With a code, since an error without one counts as a broken connection and would be tried again.
        raise DatabaseError(
            "a user was erased while the run was at work: its messages go back, and the next run takes them", _RAISED
        )
