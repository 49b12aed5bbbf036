"""Whether a day's file is what was recorded when it was written, and whether the table still is what was archived."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from loginpipe.archive.parquet import Content, content_of, file_sha256_of
from loginpipe.archive.store import Stores
from loginpipe.common.errors import ArchivedDayError
from loginpipe.postgres.archive import (
    ArchivedDay,
    DayStanding,
    archived_days,
    content_in_table,
    mark_verified,
    standing_of_days,
)
from loginpipe.postgres.connections import Connection, transaction


def verify_day(connection: Connection, *, record: ArchivedDay, stores: Stores) -> str | None:
    """Read a day's file back, compare it with its record, and put down whether it is whole.

    Returns:
        What is wrong with it; None where it is whole.

    Raises:
        ArchiveError: the store cannot be used.
        DatabaseError: nothing was put down.
    """
    fault = fault_of(record, stores)
    with transaction(connection) as cursor:
        mark_verified(cursor, record.day, record.url, whole=fault is None)
    return fault


def fault_of(record: ArchivedDay, stores: Stores) -> str | None:
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
    # Nobody decodes bytes that are not the ones that were written.
    if file_sha256_of(path) != record.file_sha256 or content_of(path) != recorded:
        raise ArchivedDayError(
            f"the file of {record.day} is damaged: its checksum is not the one recorded, {record.url}"
        )


HASHED_DAYS = 3
"""The newest archived days, whose rows are compared by checksum too, which reads them all."""


@dataclass(frozen=True)
class Comparison:
    """What was compared.

    Attributes:
        compared: archived days that the table has, or had when they were archived.
        dropped: days that are in the archive only.
        not_archived: days that are over and not in the archive.
        differing: day → how it differs, in words.
    """

    compared: int
    dropped: int
    not_archived: int
    differing: Mapping[date, str]


def compare_with_table(connection: Connection, *, today: date) -> Comparison:
    """Compare the counts of all archived days, and the checksums of the newest few.

    Raises:
        DatabaseError: the tables cannot be read.
    """
    standing = standing_of_days(connection, today=today)
    newest = [record for record in archived_days(connection) if not record.dropped_at][-HASHED_DAYS:]
    hashes: dict[date, str] = {}
    if newest:
        with transaction(connection) as cursor:
            stored = content_in_table(cursor, newest[0].day, newest[-1].day)
            hashes = {day: sha256 for day, (_, sha256) in stored.items()}
    return compare(standing, newest, hashes)


def compare(standing: Sequence[DayStanding], newest: Sequence[ArchivedDay], hashes: Mapping[date, str]) -> Comparison:
    """Compare what was read: counts of all days, and checksums (day → SHA-256 in the table) of the newest ones."""
    expected = {record.day: record.sha256 for record in newest}
    differing = {}
    for day in standing:
        if day.dropped and day.stored:
            differing[day.day] = f"was dropped, and {day.stored:,} rows came since"
        elif day.archived is not None and not day.dropped and day.stored != day.archived:
            differing[day.day] = f"{day.stored:,} rows in the table, {day.archived:,} in the archive"
        elif day.day in hashes and expected.get(day.day, hashes[day.day]) != hashes[day.day]:
            differing[day.day] = "as many rows, and not the same ones"
    return Comparison(
        compared=sum(day.archived is not None and not day.dropped for day in standing),
        dropped=sum(day.dropped for day in standing),
        not_archived=sum(day.archived is None for day in standing),
        differing=differing,
    )
