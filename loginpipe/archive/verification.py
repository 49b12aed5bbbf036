"""Whether a day's file is what was recorded when it was written, and whether the table still is what was archived."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path

from loginpipe.archive.parquet import Content, content_of, file_sha256_of
from loginpipe.archive.store import Stores
from loginpipe.common.errors import ArchivedDayError
from loginpipe.postgres.archive import (
    ArchivedDay,
    DayStatus,
    archived_days,
    content_in_table,
    days_between,
    mark_verified,
    note_differing_days,
)
from loginpipe.postgres.connections import Connection, transaction
from loginpipe.postgres.partitions import month_of


def verify_day(connection: Connection, *, record: ArchivedDay, stores: Stores) -> str | None:
    """Read a day's file back, compare it with its record, and put down whether it is whole.

    Returns:
        What is wrong with it; None where it is whole.

    Raises:
        ArchiveError: the store cannot be used.
        DatabaseError: nothing was put down.
    """
    problem = problem_of(record, stores)
    with transaction(connection) as cursor:
        mark_verified(cursor, record.day, record.url, whole=problem is None)
    return problem


def problem_of(record: ArchivedDay, stores: Stores) -> str | None:
    """Read a day's file back and compare it with its record; return what is wrong with it, in words.

    Raises:
        ArchiveError: the store cannot be used.
    """
    store, name = stores.locate(record.url)
    try:
        with store.fetched(name) as path:
            require_whole(path, record)
    except ArchivedDayError as error:
        return str(error)
    return None


def require_whole(path: Path, record: ArchivedDay) -> None:
    """Compare a file with what is recorded of it.

    Raises:
        ArchivedDayError: it is another, or damaged.
    """
    recorded = Content(record.row_count, record.sha256, record.file_bytes, record.file_sha256)
    # Only bytes that are the ones that were written are decoded.
    require_same_bytes(path, record)
    if content_of(path) != recorded:
        raise _damaged(record)


def require_same_bytes(path: Path, record: ArchivedDay) -> None:
    """Compare the bytes of a file with those that were written, without reading the rows.

    Raises:
        ArchivedDayError: they are others.
    """
    if file_sha256_of(path) != record.file_sha256:
        raise _damaged(record)


def _damaged(record: ArchivedDay) -> ArchivedDayError:
    return ArchivedDayError(f"the file of {record.day} is damaged: its checksum is not the one recorded, {record.url}")


HASHED_DAYS = 3
"""The newest archived days, whose rows are compared by checksum too, which reads them all."""

COUNTED_DAYS = 31
"""The newest days, whose rows are counted each time; of the older ones that the table has, one month in turn."""


@dataclass(frozen=True)
class Comparison:
    """What was compared.

    Attributes:
        compared: archived days whose rows in the table were counted.
        dropped: days that are in the archive only.
        not_archived: days that are over and not in the archive, of those that were counted.
        differing: day → how it differs, in words.
    """

    compared: int
    dropped: int
    not_archived: int
    differing: Mapping[date, str]


def compare_with_table(connection: Connection, *, today: date) -> Comparison:
    """Compare the counts of the newest archived days and of an older month, and the checksums of the newest few.

    Days that differ, and days that are not archived, are noted as changed: they are archived the next time. So rows
    that were not written by the pipeline reach the archive as well.

    Raises:
        DatabaseError: the tables cannot be read.
    """
    records = archived_days(connection)
    days = [
        day
        for first, last in counted_ranges(records, today)
        for day in days_between(connection, first=first, last=last)
    ]
    newest = [record for record in records if not record.dropped_at][-HASHED_DAYS:]
    with transaction(connection) as cursor:
        stored = content_in_table(cursor, newest[0].day, newest[-1].day) if newest else {}
    comparison = compare(days, newest, {day: sha256 for day, (_, sha256) in stored.items()})
    note_differing_days(connection, [*comparison.differing, *(day.day for day in days if day.archived is None)])
    return replace(comparison, dropped=sum(record.dropped_at is not None for record in records))


def counted_ranges(records: Sequence[ArchivedDay], today: date) -> list[tuple[date, date]]:
    """Return the first and last days of what is counted on a day: counting the whole table would take ever longer.

    Args:
        records: the archived days.
        today: the UTC date; the older months take turns by it.
    """
    newest = today - timedelta(days=COUNTED_DAYS)
    ranges = [(newest, today - timedelta(days=1))]
    months = sorted({month_of(record.day) for record in records if record.day < newest and not record.dropped_at})
    if months:
        month = months[today.toordinal() % len(months)]
        ranges.insert(0, (month.start, min(month.end, newest) - timedelta(days=1)))
    return ranges


def compare(days: Sequence[DayStatus], newest: Sequence[ArchivedDay], hashes: Mapping[date, str]) -> Comparison:
    """Compare what was read: counts of days, and checksums (day → SHA-256 in the table) of the newest ones."""
    expected = {record.day: record.sha256 for record in newest}
    differing = {}
    for day in days:
        if day.dropped and day.stored:
            differing[day.day] = f"was dropped, and {day.stored:,} rows came since"
        elif day.archived is not None and not day.dropped and day.stored != day.archived:
            differing[day.day] = f"{day.stored:,} rows in the table, {day.archived:,} in the archive"
        elif day.day in hashes and expected.get(day.day, hashes[day.day]) != hashes[day.day]:
            differing[day.day] = "as many rows, and not the same ones"
    return Comparison(
        compared=sum(day.archived is not None and not day.dropped for day in days),
        dropped=sum(day.dropped for day in days),
        not_archived=sum(day.archived is None for day in days),
        differing=differing,
    )
