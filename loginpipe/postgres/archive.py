"""Keep the archive's records: the file of each day, how it compares with the table, and which months may be dropped."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from functools import partial
from typing import Any, NamedTuple

from loginpipe.common.errors import DatabaseError
from loginpipe.common.logins_table import logins_table
from loginpipe.postgres.connections import READ_COMMITTED, Connection, Cursor, fetch, rows_of, transaction
from loginpipe.postgres.days import changes_collected
from loginpipe.postgres.partitions import (
    EXTRAS,
    Partition,
    in_turn,
    outlived,
    partitioning,
    retention_begins,
    rows_in_default,
)
from loginpipe.postgres.statements import statement

_DAYS = (
    "SELECT day, row_count, sha256, url, file_bytes, file_sha256, archived_at, verified_at, kept_until, dropped_at "
    "FROM loginpipe.archived_days"
)
_BUSY = "55P03"  # transient: a session retries it


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
        """Return when the file last matched the table or was searched for erased users.

        The file may hold users who were erased later.
        """
        return max(self.archived_at, self.dropped_at or self.archived_at)


def archived_days(connection: Connection) -> list[ArchivedDay]:
    """Return the archived days, the oldest first."""
    return [ArchivedDay(*row) for row in fetch(connection, f"{_DAYS} ORDER BY day")]


def archived_day(cursor: Cursor, day: date) -> ArchivedDay | None:
    """Return the record of a day, or None."""
    return next((ArchivedDay(*row) for row in rows_of(cursor, f"{_DAYS} WHERE day = %s", (day,))), None)


@contextmanager
def work_on_day(connection: Connection, day: date) -> Iterator[Cursor]:
    """Open a transaction that keeps others from archiving or restoring a day, and yield its cursor.

    Raises:
        DatabaseError: another process works on the day.
    """
    with transaction(connection, READ_COMMITTED) as cursor:
        if rows_of(cursor, "SELECT loginpipe.try_turn(%s)", (f"archived_days {day}",)) != [(True,)]:
            raise DatabaseError(
                f"{day} is being archived or restored by another process: run this again when that is done", _BUSY
            )
        yield cursor


def days_to_search(connection: Connection) -> list[date]:
    """Return the days that only the archive holds, and whose files may contain users erased since."""
    return [day for (day,) in fetch(connection, statement("archive_to_search"))]


def stream_logins(connection: Connection, day: date, *, rows_at_once: int) -> Iterator[list[Any]]:
    """Yield the rows of a day in batches, in the order of `loginpipe.archive.parquet`, in an open transaction."""
    with connection.cursor("archive_rows") as cursor:
        cursor.execute(statement("archive_rows"), {"day": day})
        while rows := cursor.fetchmany(rows_at_once):
            yield rows


def record_archived(cursor: Cursor, **values: Any) -> bool:
    """Record a day's file, just verified; return False if the table has dropped the day since.

    Call it in the transaction of `work_on_day`. The values are ``day``, ``row_count``, ``sha256``, ``url``,
    ``file_bytes`` and ``file_sha256``.
    """
    cursor.execute(statement("archive_record"), values)
    return bool(cursor.rowcount)


def record_rewritten(cursor: Cursor, **values: Any) -> None:
    """Record the file of a dropped day that was rewritten without erased users. Call it as `record_archived`."""
    cursor.execute(statement("archive_rewritten"), values)


def mark_verified(connection: Connection, day: date, url: str, *, whole: bool) -> None:
    """Record that a file was read back, and whether it was whole; do nothing if the day has another file now."""
    with transaction(connection) as cursor:
        cursor.execute(statement("archive_verified"), {"day": day, "url": url, "whole": whole})


def mark_unchanged(cursor: Cursor, day: date) -> None:
    """Record that a day's file, just verified, matches the table or holds no erased user.

    Call it in the transaction of `work_on_day`, with erasures blocked.
    """
    cursor.execute(statement("archive_unchanged"), {"day": day})


def mark_restored(cursor: Cursor, day: date, *, kept_days: int, same: bool) -> None:
    """Record that a day is in the table again, in the transaction that inserted its rows.

    It is not dropped for ``kept_days`` from today, by the server's clock. If ``same`` is False, the table's rows differ
    from the file's, and the day is archived again.
    """
    cursor.execute(statement("archive_restored"), {"day": day, "kept_days": kept_days, "same": same})


class DayStatus(NamedTuple):
    """A past day: its rows in the table and in its file (None without one), and whether the table has dropped it.

    It is settled if the file was verified and the day has not changed since.
    """

    day: date
    stored: int
    archived: int | None
    dropped: bool
    settled: bool

    @property
    def due(self) -> bool:
        """Return True if the day must be archived or archived again, also if rows came after it was dropped."""
        if self.archived is None or self.dropped:
            return self.stored > 0
        return self.stored != self.archived or not self.settled


def days_between(connection: Connection, *, first: date, last: date) -> list[DayStatus]:
    """Return the status of each day from ``first`` to ``last``, the oldest first. Counts their rows in the table."""
    with changes_collected(connection) as cursor:
        return [DayStatus(*row) for row in rows_of(cursor, statement("archive_days"), {"first": first, "last": last})]


def days_to_archive(connection: Connection, *, today: date) -> list[date]:
    """Return the days before ``today`` to archive for the first time or again, the oldest first.

    These are the days that have changed, and those whose file was found missing or damaged.
    """
    with changes_collected(connection) as cursor:
        return [day for (day,) in rows_of(cursor, statement("archive_due"), {"today": today})]


def note_differing_days(connection: Connection, days: Sequence[date]) -> None:
    """Record days that differ from the archive as changed, so that they are archived next time."""
    with changes_collected(connection) as cursor:
        cursor.execute(statement("note_differing_days"), {"days": list(days)})


def content_in_table(cursor: Cursor, first: date, last: date) -> dict[date, tuple[int, str]]:
    """Return rows and checksum (`loginpipe.archive.parquet`) of each day that has rows in the table."""
    query = "SELECT day, row_count, sha256 FROM loginpipe.logins_by_day(%s, %s)"
    return {day: (rows, sha256) for day, rows, sha256 in rows_of(cursor, query, (first, last))}


def archive_gap(connection: Connection, *, today: date) -> tuple[int, int, date | None]:
    """Count archived days and the dropped ones among them; find the oldest of the last 30 with rows and no file.

    The day before ``today`` is left out, because its archiving may still run.
    """
    ((days, dropped, missing),) = fetch(connection, statement("archive_gap"), {"today": today})
    return days, dropped, missing


class Outlived(NamedTuple):
    """Months of ``user_logins`` that are old enough to be dropped, the oldest first.

    If loginpipe does not partition the table, there are none, and ``not_ours`` is why. Rows in its default partition
    are never dropped.
    """

    months: Sequence[Partition]
    not_ours: str | None
    rows_in_default: int


def outlived_months(connection: Connection, *, today: date, days: int) -> Outlived:
    """Find the months that ended at least ``days`` days before ``today``, and at least 29."""
    table = logins_table()
    found = in_turn(connection, partial(partitioning, table=table), table)
    if found.not_ours:
        return Outlived((), found.not_ours, 0)
    months = sorted(outlived(found.partitions, today, days))
    return Outlived(months, None, rows_in_default(connection, table).get(table, 0))


def drop_month(connection: Connection, month: Partition) -> str | None:
    """Drop a month from `outlived_months` if the archive holds all its rows. Return why it stays, or None.

    The rows are compared while no one can write to it. The role is as for `loginpipe.postgres.partitions.maintain`.
    """

    def drop(cursor: Cursor) -> str | None:
        ((reason,),) = rows_of(cursor, "SELECT loginpipe.drop_archived_partition(%s)", (month.start,))
        return None if reason is None else str(reason)

    return in_turn(connection, drop, str(month))


def drop_extras(connection: Connection, *, today: date, days: int, kept: Sequence[Partition]) -> list[str]:
    """Drop the months of the extras that ended at least ``days`` days before ``today``, and at least 29.

    ``kept`` are months of ``user_logins`` that are as old but stay: the extras from the first of them on stay too. The
    role is as for `loginpipe.postgres.partitions.maintain`. Return the dropped partitions, with their schema.
    """
    begins = min([retention_begins(today, days), *(month.start for month in kept)])

    def drop(cursor: Cursor) -> list[str]:
        ((dropped,),) = rows_of(cursor, "SELECT loginpipe.trim_extras(%s)", (begins,))
        return list(dropped)

    return in_turn(connection, drop, EXTRAS)
