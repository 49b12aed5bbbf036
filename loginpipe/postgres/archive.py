"""The archive's books in the database: which days are in which file, and how the table stands to them."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from loginpipe.common.errors import DatabaseError
from loginpipe.postgres.connections import Connection, Cursor, transaction
from loginpipe.postgres.erasures import hold_off_erasures
from loginpipe.postgres.statements import statement

_COLUMNS = "day, row_count, sha256, url, file_bytes, file_sha256, archived_at, verified_at, kept_until, dropped_at"
_BUSY, _INTERFERED = "55P03", "40001"  # both pass: a session tries again


@dataclass(frozen=True)
class ArchivedDay:
    """A row of ``loginpipe.archived_days``: see ``docs/tables.md``. Times are aware."""

    day: date
    row_count: int
    sha256: str
    url: str
    file_bytes: int
    file_sha256: str
    archived_at: datetime
    verified_at: datetime | None
    kept_until: date | None
    dropped_at: datetime | None


def archived_days(connection: Connection) -> list[ArchivedDay]:
    """Return the archived days, the oldest first."""
    with transaction(connection) as cursor:
        cursor.execute(f"SELECT {_COLUMNS} FROM loginpipe.archived_days ORDER BY day")  # noqa: S608
        return [ArchivedDay(*row) for row in cursor]


def archived_day(cursor: Cursor, day: date) -> ArchivedDay | None:
    """Return the record of a day."""
    cursor.execute(f"SELECT {_COLUMNS} FROM loginpipe.archived_days WHERE day = %s", (day,))  # noqa: S608
    row = cursor.fetchone()
    return ArchivedDay(*row) if row else None


def begin_work_on_day(cursor: Cursor, day: date) -> None:
    """Let nobody else archive or restore a day before this transaction ends.

    Args:
        cursor: at the beginning of its transaction.
        day: the UTC date.

    Raises:
        DatabaseError: somebody else is at work on it.
    """
    # Each statement is to see what was committed before it, above all after a lock was waited for.
    cursor.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
    key = f"loginpipe.archived_days {day}"
    cursor.execute("SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))", (key,))
    if cursor.fetchone() != (True,):
        raise DatabaseError(f"{day} is being archived or restored by somebody else: run again when that is done", _BUSY)


def stream_logins(connection: Connection, day: date, *, rows_at_once: int) -> Iterator[list[Any]]:
    """Yield the rows of a day in batches, in the order of `loginpipe.archive.digest`, as of now.

    Args:
        connection: with a transaction open.
        day: the UTC date.
        rows_at_once: most rows in a batch.
    """
    with connection.cursor("archive_rows") as cursor:
        cursor.execute(statement("archive_rows"), {"day": day})
        while rows := cursor.fetchmany(rows_at_once):
            yield rows


def record_archived(cursor: Cursor, **values: Any) -> bool:
    """Record a day's file, found whole just now; False where the table has let go of the day meanwhile.

    Args:
        cursor: in the transaction that began the work on the day.
        values: ``day``, ``row_count``, ``sha256``, ``url``, ``file_bytes``, ``file_sha256``.
    """
    cursor.execute(statement("archive_record"), values)
    return bool(cursor.rowcount)


def mark_verified(cursor: Cursor, day: date, url: str, *, whole: bool) -> None:
    """Record that a file was read back, and whether it was whole; nothing where the day has another file by now."""
    cursor.execute(
        "UPDATE loginpipe.archived_days SET verified_at = CASE WHEN %s THEN clock_timestamp() END "
        "WHERE day = %s AND url = %s",
        (whole, day, url),
    )


def mark_unchanged(cursor: Cursor, day: date) -> None:
    """Record that a day's file was read back, and is the same as the table.

    Args:
        cursor: in the transaction that began the work on the day.
        day: the UTC date.
    """
    cursor.execute(
        "UPDATE loginpipe.archived_days SET archived_at = clock_timestamp(), verified_at = clock_timestamp() "
        "WHERE day = %s",
        (day,),
    )


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


def mark_restored(cursor: Cursor, day: date, *, kept_days: int, same: bool) -> None:
    """Record that a day is in the table again, not to be dropped for so many days.

    Args:
        cursor: in the transaction that inserted the rows.
        day: the UTC date.
        kept_days: from today on, by the server's clock.
        same: the table has exactly the file's rows of that day; otherwise it is to be archived anew.
    """
    cursor.execute(statement("archive_restored"), {"day": day, "kept_days": kept_days, "same": same})
