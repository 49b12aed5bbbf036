"""How days stand in ``user_logins`` beside the archive: what is due, what differs, what is missing."""

from dataclasses import dataclass
from datetime import date

from loginpipe.postgres.connections import Connection, Cursor, transaction
from loginpipe.postgres.statements import statement


@dataclass(frozen=True)
class DayStanding:
    """How a day that is over stands in the table and in the archive.

    Attributes:
        stored: rows in the table.
        archived: rows in its file; None where it has none.
        dropped: the table has let go of it.
        settled: the file was found whole, and no run has brought logins of that day since.
    """

    day: date
    stored: int
    archived: int | None
    dropped: bool
    settled: bool

    @property
    def due(self) -> bool:
        """Whether it is to be archived, or archived anew; also where rows came after it was dropped."""
        if self.archived is None or self.dropped:
            return self.stored > 0
        return self.stored != self.archived or not self.settled


def standing_of_days(connection: Connection, *, today: date) -> list[DayStanding]:
    """Return how each day before ``today`` stands, the oldest first: counts the whole table.

    Args:
        connection: with no transaction open.
        today: the UTC date.
    """
    with transaction(connection) as cursor:
        cursor.execute(statement("archive_standing"), {"today": today})
        return [DayStanding(*row) for row in cursor]


def content_in_table(cursor: Cursor, first: date, last: date) -> dict[date, tuple[int, str]]:
    """Return rows and checksum (`loginpipe.archive.parquet`) of each day that the table has rows of."""
    cursor.execute("SELECT day, row_count, sha256 FROM loginpipe.logins_by_day(%s, %s)", (first, last))
    return {day: (rows, sha256) for day, rows, sha256 in cursor}


def archive_gap(connection: Connection, *, today: date) -> tuple[int, int, date | None]:
    """Count archived days, and those of them that were dropped; find the oldest of the last 30 that has no file.

    Args:
        connection: with no transaction open.
        today: the UTC date; the day before it may still be on its way.
    """
    with transaction(connection) as cursor:
        cursor.execute(statement("archive_gap"), {"today": today})
        ((days, dropped, missing),) = cursor.fetchall()
    return days, dropped, missing
