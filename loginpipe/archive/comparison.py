"""The archive beside the table: which archived days are not the same in both. By the books; no file is read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from loginpipe.postgres.archive import ArchivedDay, DayStanding, archived_days, content_in_table, standing_of_days
from loginpipe.postgres.connections import Connection, transaction

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

    Args:
        connection: with no transaction open.
        today: the UTC date.

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
    """Compare what was read.

    Args:
        standing: of each day that is over.
        newest: records of the days whose checksums are compared.
        hashes: day → checksum of its rows in the table, for those that have any.
    """
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
