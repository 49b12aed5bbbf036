"""Which users were erased, and that none is meanwhile. Erasing itself is a custodian's."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from loginpipe.common.errors import DatabaseError
from loginpipe.postgres.connections import Connection, Cursor, transaction

_INTERFERED = "40001"  # passes: a session tries again


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
    """Read which users were erased."""
    with transaction(connection) as cursor:
        cursor.execute("SELECT tombstone, erased_at, times FROM loginpipe.erased_users")
        rows = cursor.fetchall()
    return Erased({bytes(tombstone): at for tombstone, at, _ in rows}, sum(times for _, _, times in rows))


def hold_off_erasures(cursor: Cursor) -> None:
    """Let no user be erased before this transaction ends.

    Args:
        cursor: at the beginning of its transaction, READ COMMITTED: in the other isolation levels the next statements
            would go on seeing what was there before the lock was waited for.
    """
    cursor.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
    cursor.execute("LOCK TABLE vault.erasure_gate IN ROW EXCLUSIVE MODE")


def erasures_so_far(cursor: Cursor) -> int:
    """Return how many erasures there were: `require_no_erasure_since` takes it."""
    cursor.execute("SELECT coalesce(sum(times), 0) FROM loginpipe.erased_users")
    ((erasures,),) = cursor.fetchall()
    return int(erasures)


def require_no_erasure_since(cursor: Cursor, erasures: int) -> None:
    """Let no user be erased before this transaction ends, and make sure that none was meanwhile.

    Raises:
        DatabaseError: a user was erased meanwhile.
    """
    hold_off_erasures(cursor)
    if erasures_so_far(cursor) != erasures:
        raise DatabaseError("a user was erased meanwhile: run again", _INTERFERED)


def erased_after(cursor: Cursor, moment: datetime) -> bool:
    """Say whether a user was erased after a moment."""
    cursor.execute("SELECT EXISTS (SELECT FROM loginpipe.erased_users WHERE erased_at > %s)", (moment,))
    return cursor.fetchone() == (True,)


def tombstones_since(cursor: Cursor, moment: datetime) -> list[tuple[bytes, int, datetime]]:
    """Return tombstone, version of the token key and time of the erasures after a moment."""
    cursor.execute(
        "SELECT tombstone, key_version, erased_at FROM loginpipe.erased_users WHERE erased_at > %s", (moment,)
    )
    return [(bytes(tombstone), version, at) for tombstone, version, at in cursor]
