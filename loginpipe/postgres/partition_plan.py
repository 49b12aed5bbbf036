"""Which partitions there should be on a given day, and which are of no more use. Pure: dates in, names and bounds out.

`loginpipe.postgres.partitions` makes it so. That a table is partitioned at all is the migrations' doing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta

LEDGER = "loginpipe.ingested_messages"
USER_LOGINS = "public.user_logins"

# SQS keeps a message 14 days at most, and one that goes to a FIFO dead-letter queue, or is redriven, 14 more. A day
# more is for clocks that differ.
_LEDGER_KEPT = timedelta(days=29)
_LEDGER_AHEAD = timedelta(days=7)
_LOGIN_MONTHS = range(-1, 4)
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, order=True)
class Partition:
    """A partition, for the days from ``start`` up to, not including, ``end``; as text, its schema and name.

    Attributes:
        table: schema and name of the parent.
        name: its own name, in the parent's schema.
    """

    table: str
    name: str
    start: date
    end: date

    def __str__(self) -> str:
        return f"{self.table.split('.')[0]}.{self.name}"

    def overlaps(self, other: "Partition") -> bool:
        """Say whether the two have a day in common; both of one table."""
        return self.start < other.end and other.start < self.end


def coming(today: date) -> list[Partition]:
    """List the partitions there should be on a UTC date.

    Those of the ledger from the day of the oldest message that SQS can hold to a week ahead, those of ``user_logins``
    from last month to three months ahead: maintenance may fail for a week before a row lands in a default partition.
    """
    first = ledger_begins(today)
    days = [first + offset * _DAY for offset in range((today + _LEDGER_AHEAD - first).days + 1)]
    months = [_first_of_month(today, offset) for offset in _LOGIN_MONTHS]
    return [
        *(_of_day(day) for day in days),
        *(month_of(month) for month in months),
    ]


def expired(existing: Iterable[Partition], today: date) -> list[Partition]:
    """Pick the ledger's partitions that no message can need any more on a UTC date.

    Never another table's, and none that somebody else made: the database drops those of the plan only.
    """
    first = ledger_begins(today)
    return [partition for partition in existing if partition.end <= first and partition == _of_day(partition.start)]


def ledger_begins(today: date) -> date:
    """Return the first day that the ledger must still hold on a UTC date."""
    return today - _LEDGER_KEPT


def month_of(day: date) -> Partition:
    """Return the partition of ``user_logins`` that a UTC date belongs in."""
    return Partition(USER_LOGINS, f"user_logins_{day:y%Ym%m}", _first_of_month(day, 0), _first_of_month(day, 1))


def outlived(existing: Iterable[Partition], today: date, days: int) -> list[Partition]:
    """Pick the months of ``user_logins`` that ended so many days before a UTC date, and before what is still delivered.

    None that somebody else made: the database drops those of the plan only.
    """
    kept_from = min(ledger_begins(today), today - timedelta(days))
    return [
        partition for partition in existing if partition.end <= kept_from and partition == month_of(partition.start)
    ]


def _of_day(day: date) -> Partition:
    return Partition(LEDGER, f"ingested_messages_{day:y%Ym%md%d}", day, day + _DAY)


def _first_of_month(day: date, offset: int) -> date:
    year, month = divmod(day.year * 12 + day.month - 1 + offset, 12)
    return date(year, month + 1, 1)
