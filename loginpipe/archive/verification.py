"""Verify that files match their records, and that the table matches the archive."""

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
    """Read a day's file back, compare it with its record, record the result, and return the problem, if any."""
    problem = problem_of(record, stores)
    mark_verified(connection, record.day, record.url, whole=problem is None)
    return problem


def problem_of(record: ArchivedDay, stores: Stores) -> str | None:
    """Read a day's file back, compare it with its record, and return the problem, if any."""
    store, name = stores.locate(record.url)
    try:
        with store.fetched(name) as path:
            require_whole(path, record)
    except ArchivedDayError as error:
        return str(error)
    return None


def require_whole(path: Path, record: ArchivedDay) -> None:
    """Compare a file with its record. Raise ArchivedDayError if it is another file, or damaged."""
    recorded = Content(record.row_count, record.sha256, record.file_bytes, record.file_sha256)
    # Decode bytes only if they are those that were written.
    require_same_bytes(path, record)
    if content_of(path) != recorded:
        raise _damaged(record)


def require_same_bytes(path: Path, record: ArchivedDay) -> None:
    """Compare the bytes of a file with the written ones, without reading rows. Raise as `require_whole`."""
    if file_sha256_of(path) != record.file_sha256:
        raise _damaged(record)


def _damaged(record: ArchivedDay) -> ArchivedDayError:
    return ArchivedDayError(f"the file of {record.day} is damaged: its checksum is not the one recorded, {record.url}")


# The rows of this many newest archived days are also compared by checksum, which reads all of them.
_HASHED_DAYS = 3
# The rows of this many newest days are always counted. Of the older days in the table, one month at a time is counted.
_COUNTED_DAYS = 31


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison, in days.

    Attributes:
        compared: archived ones whose rows in the table were counted.
        dropped: those that are only in the archive.
        not_archived: counted ones that are not archived.
        differing: day → the difference as text.
    """

    compared: int
    dropped: int
    not_archived: int
    differing: Mapping[date, str]


def compare_with_table(connection: Connection, *, today: date) -> Comparison:
    """Compare row counts of the newest days and of an older month, and checksums of the newest archived days.

    Days that differ or are not archived are noted as changed, so that the next run archives them. So rows that another
    program wrote reach the archive too.
    """
    records = archived_days(connection)
    ranges = counted_ranges(records, today)
    days = [day for first, last in ranges for day in days_between(connection, first=first, last=last)]
    newest = [record for record in records if not record.dropped_at][-_HASHED_DAYS:]
    with transaction(connection) as cursor:
        stored = content_in_table(cursor, newest[0].day, newest[-1].day) if newest else {}
    comparison = compare(days, newest, {day: sha256 for day, (_, sha256) in stored.items()})
    note_differing_days(connection, [*comparison.differing, *(day.day for day in days if day.archived is None)])
    return replace(comparison, dropped=sum(record.dropped_at is not None for record in records))


def counted_ranges(records: Sequence[ArchivedDay], today: date) -> list[tuple[date, date]]:
    """Return the first and last days of the ranges to count. To count the whole table would take ever longer.

    The date of today selects the older month.
    """
    newest = today - timedelta(days=_COUNTED_DAYS)
    ranges = [(newest, today - timedelta(days=1))]
    months = sorted({month_of(record.day) for record in records if record.day < newest and not record.dropped_at})
    if months:
        month = months[today.toordinal() % len(months)]
        ranges.insert(0, (month.start, min(month.end, newest) - timedelta(days=1)))
    return ranges


def compare(days: Sequence[DayStatus], newest: Sequence[ArchivedDay], hashes: Mapping[date, str]) -> Comparison:
    """Compare counts of days, and the checksums (day → SHA-256 in the table) of the newest ones."""
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
