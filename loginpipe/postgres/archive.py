"""The archive in the database: which days are in which file, how the table stands to them, which months may go."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import partial
from typing import Any

from loginpipe.common.errors import DatabaseError
from loginpipe.common.logins_table import logins_table
from loginpipe.postgres.connections import Connection, Cursor, transaction
from loginpipe.postgres.days import collect_changes, read_committed
from loginpipe.postgres.partitions import (
    EXTRAS,
    Partition,
    existing_partitions,
    in_turn,
    outlived,
    retention_begins,
    rows_in_default,
    why_not_ours,
)
from loginpipe.postgres.statements import statement

_COLUMNS = "day, row_count, sha256, url, file_bytes, file_sha256, archived_at, verified_at, kept_until, dropped_at"
_BUSY = "55P03"  # passes: a session tries again


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

    @property
    def same_at(self) -> datetime:
        """When the file was last the same as the table, or searched for erased users: who was erased later is in it."""
        return max(self.archived_at, self.dropped_at or self.archived_at)


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
    """Keep others from archiving or restoring a day until this transaction, which it begins, ends.

    Raises:
        DatabaseError: another process works on it.
    """
    read_committed(cursor)
    cursor.execute("SELECT loginpipe.try_turn(%s)", (f"archived_days {day}",))
    if cursor.fetchone() != (True,):
        raise DatabaseError(
            f"{day} is being archived or restored by another process: run this again when that is done", _BUSY
        )


def days_to_search(connection: Connection) -> list[date]:
    """Return the days that are in the archive only, and whose files may have users who were erased since."""
    with transaction(connection) as cursor:
        cursor.execute(statement("archive_to_search"))
        return [day for (day,) in cursor]


def stream_logins(connection: Connection, day: date, *, rows_at_once: int) -> Iterator[list[Any]]:
    """Yield the rows of a day in batches, in the order of `loginpipe.archive.parquet`, as of now.

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


def record_rewritten(cursor: Cursor, **values: Any) -> None:
    """Record the file of a day that was dropped, written again without erased users and found whole just now.

    Args:
        cursor: in the transaction of `begin_work_on_day`.
        values: as of `record_archived`.
    """
    cursor.execute(statement("archive_rewritten"), values)


def mark_verified(cursor: Cursor, day: date, url: str, *, whole: bool) -> None:
    """Record that a file was read back, and whether it was whole; nothing where the day has another file by now."""
    cursor.execute(
        "UPDATE loginpipe.archived_days SET verified_at = CASE WHEN %s THEN clock_timestamp() END "
        "WHERE day = %s AND url = %s",
        (whole, day, url),
    )


def mark_unchanged(cursor: Cursor, day: date) -> None:
    """Record that a day's file, found whole just now, is the same as the table, or has no erased user.

    Args:
        cursor: in a transaction of `begin_work_on_day`, with erasures held off.
        day: the UTC date.
    """
    cursor.execute(
        "UPDATE loginpipe.archived_days SET archived_at = clock_timestamp(), verified_at = clock_timestamp() "
        "WHERE day = %s",
        (day,),
    )


def mark_restored(cursor: Cursor, day: date, *, kept_days: int, same: bool) -> None:
    """Record that a day is in the table again, not to be dropped for so many days.

    Args:
        cursor: in the transaction that inserted the rows.
        day: the UTC date.
        kept_days: from today on, by the server's clock.
        same: the table has exactly the file's rows of that day; otherwise it is to be archived again.
    """
    cursor.execute(statement("archive_restored"), {"day": day, "kept_days": kept_days, "same": same})


@dataclass(frozen=True)
class DayStatus:
    """How a day that is over stands in the table and in the archive.

    Attributes:
        stored: rows in the table.
        archived: rows in its file; None where it has none.
        dropped: the table has let go of it.
        settled: the file was found whole, and the day has not changed since.
    """

    day: date
    stored: int
    archived: int | None
    dropped: bool
    settled: bool

    @property
    def due(self) -> bool:
        """Whether it is to be archived, for the first time or again; also where rows came after it was dropped."""
        if self.archived is None or self.dropped:
            return self.stored > 0
        return self.stored != self.archived or not self.settled


def days_between(connection: Connection, *, first: date, last: date) -> list[DayStatus]:
    """Return how each day from ``first`` to ``last`` stands, the oldest first: counts their rows in the table."""
    with transaction(connection) as cursor:
        read_committed(cursor)
        collect_changes(cursor)
        cursor.execute(statement("archive_days"), {"first": first, "last": last})
        return [DayStatus(*row) for row in cursor]


def days_to_archive(connection: Connection, *, today: date) -> list[date]:
    """Return the days before ``today`` that are to be archived, or archived again, the oldest first.

    Those that have changed since, whoever recorded that, and those whose file was found missing or damaged.
    """
    with transaction(connection) as cursor:
        read_committed(cursor)
        collect_changes(cursor)
        cursor.execute(statement("archive_due"), {"today": today})
        return [day for (day,) in cursor]


def note_differing_days(connection: Connection, days: Sequence[date]) -> None:
    """Note that days have changed, since they differ from the archive: the next time they are archived."""
    with transaction(connection) as cursor:
        read_committed(cursor)
        collect_changes(cursor)
        cursor.execute(statement("note_differing_days"), {"days": list(days)})


def content_in_table(cursor: Cursor, first: date, last: date) -> dict[date, tuple[int, str]]:
    """Return rows and checksum (`loginpipe.archive.parquet`) of each day that the table has rows of."""
    cursor.execute("SELECT day, row_count, sha256 FROM loginpipe.logins_by_day(%s, %s)", (first, last))
    return {day: (rows, sha256) for day, rows, sha256 in cursor}


def archive_gap(connection: Connection, *, today: date) -> tuple[int, int, date | None]:
    """Count archived days, and those of them that were dropped; find the oldest of the last 30 that has no file.

    The day before ``today`` is left out: it may still be on its way.
    """
    with transaction(connection) as cursor:
        cursor.execute(statement("archive_gap"), {"today": today})
        ((days, dropped, missing),) = cursor.fetchall()
    return days, dropped, missing


@dataclass(frozen=True)
class Outlived:
    """Months of ``user_logins`` that are old enough to go.

    Attributes:
        months: partitions, the oldest first.
        not_ours: why there are none to look at, where the table is not ours to partition.
        rows_in_default: rows of ``user_logins`` in its default partition, which are never dropped.
    """

    months: Sequence[Partition]
    not_ours: str | None
    rows_in_default: int


def outlived_months(connection: Connection, *, today: date, days: int) -> Outlived:
    """Find the months that ended ``days`` days before ``today``, or 29 where that is more."""
    table = logins_table()
    not_ours = in_turn(connection, partial(why_not_ours, table=table), table)
    if not_ours:
        return Outlived((), not_ours, 0)
    existing = in_turn(connection, partial(existing_partitions, table=table), table)
    months = sorted(outlived(existing, today, days))
    return Outlived(months, None, rows_in_default(connection, table).get(table, 0))


def drop_month(connection: Connection, month: Partition) -> str | None:
    """Detach and drop a month if every row of it is in the archive, compared while no one can write to it.

    Args:
        connection: of the owner or a member of ``loginpipe_writer``, with no transaction open.
        month: as `outlived_months` gives it.

    Returns:
        Why it stays, in words; None where it is gone.

    Raises:
        DatabaseError: it stays: a lock could not be had, or a statement was refused.
    """

    def drop(cursor: Cursor) -> str | None:
        cursor.execute("SELECT loginpipe.drop_archived_partition(%s)", (month.start,))
        ((reason,),) = cursor.fetchall()
        return None if reason is None else str(reason)

    return in_turn(connection, drop, str(month))


def drop_extras(connection: Connection, *, today: date, days: int, kept: Sequence[Partition]) -> list[str]:
    """Drop the months of the extras that ended ``days`` days before ``today``, or 29 where that is more.

    Args:
        connection: of the owner or a member of ``loginpipe_writer``, with no transaction open.
        today: the UTC date.
        days: how many to keep.
        kept: months of ``user_logins`` that are as old and stay: the extras from the first of them on stay too.

    Returns:
        The partitions that are gone, with their schema.

    Raises:
        DatabaseError: they stay: a lock could not be had, or a statement was refused.
    """
    begins = min([retention_begins(today, days), *(month.start for month in kept)])

    def drop(cursor: Cursor) -> list[str]:
        cursor.execute("SELECT loginpipe.trim_extras(%s)", (begins,))
        ((dropped,),) = cursor.fetchall()
        return list(dropped)

    return in_turn(connection, drop, EXTRAS)
