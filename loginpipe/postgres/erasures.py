"""Read which users were erased, and block erasures during a transaction. Custodians erase users."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from loginpipe.common.errors import DatabaseError
from loginpipe.postgres.connections import Connection, Cursor, fetch, rows_of

_INTERFERED = "40001"  # transient: a session retries it


@dataclass(frozen=True)
class Erased:
    """The erased users: tombstone (32 bytes) of the user id → when that user was last erased; aware.

    The count includes repeated erasures of the same user.
    """

    erased_at: Mapping[bytes, datetime]
    count: int

    @property
    def tombstones(self) -> frozenset[bytes]:
        """Return the tombstones, of all versions of the token key."""
        return frozenset(self.erased_at)


def read_erased(connection: Connection) -> Erased:
    """Read which users were erased."""
    rows = fetch(connection, "SELECT tombstone, erased_at, times FROM loginpipe.erased_users")
    return Erased({bytes(tombstone): at for tombstone, at, _ in rows}, sum(times for _, _, times in rows))


def hold_off_erasures(cursor: Cursor) -> None:
    """Block erasures until the end of this transaction, which must be `READ_COMMITTED`."""
    cursor.execute("LOCK TABLE vault.erasure_gate IN ROW EXCLUSIVE MODE")


def erasures_so_far(cursor: Cursor) -> int:
    """Return the number of erasures, for `require_no_erasure_since`."""
    ((erasures,),) = rows_of(cursor, "SELECT coalesce(sum(times), 0) FROM loginpipe.erased_users")
    return int(erasures)


def require_no_erasure_since(cursor: Cursor, erasures: int) -> None:
    """Block erasures until the end of this transaction. Raise DatabaseError for one since `erasures_so_far`."""
    hold_off_erasures(cursor)
    if erasures_so_far(cursor) != erasures:
        raise DatabaseError("a user was erased meanwhile: run again", _INTERFERED)


class Tombstone(NamedTuple):
    """A row of ``loginpipe.erased_users``: HMAC of the user id, version of the token key, time of the erasure.

    An erasure leaves one for each version, with the same time.
    """

    tombstone: bytes
    key_version: int
    erased_at: datetime


def tombstones_since(cursor: Cursor, moment: datetime) -> list[Tombstone]:
    """Return the tombstones of the erasures after ``moment``."""
    query = "SELECT tombstone, key_version, erased_at FROM loginpipe.erased_users WHERE erased_at > %s"
    return [Tombstone(bytes(tombstone), *rest) for tombstone, *rest in rows_of(cursor, query, (moment,))]
