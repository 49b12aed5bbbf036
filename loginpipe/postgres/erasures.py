"""Which users were erased: the tombstones that a run compares its logins with. Erasing itself is a custodian's."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from loginpipe.postgres.connections import Connection, Cursor, transaction

ERASURE_LOCK = int.from_bytes(b"lp-erase")
"""An erasure holds this advisory lock, a load shares it: ``vault.erase_user`` names the same number."""


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


def hold_off_erasures(cursor: Cursor) -> None:
    """Let no user be erased before this transaction ends.

    Args:
        cursor: at the beginning of its transaction, READ COMMITTED: in the other isolation levels the next statements
            would go on seeing what was there before the lock was waited for.
    """
    cursor.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
    cursor.execute("SELECT pg_advisory_xact_lock_shared(%s)", (ERASURE_LOCK,))
