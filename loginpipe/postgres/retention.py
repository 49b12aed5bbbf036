"""Months of ``user_logins`` that are old enough to go, and letting go of one, if it is archived."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial

from loginpipe.postgres.connections import Connection, Cursor
from loginpipe.postgres.partition_plan import USER_LOGINS, Partition, outlived
from loginpipe.postgres.partitions import existing_partitions, in_turn, rows_in_default, why_not_ours


@dataclass(frozen=True)
class Outlived:
    """What is old enough.

    Attributes:
        months: partitions, the oldest first.
        not_ours: why there are none to look at, where the table is not ours to partition.
        rows_in_default: rows of ``user_logins`` in its default partition, which are never dropped.
    """

    months: Sequence[Partition]
    not_ours: str | None
    rows_in_default: int


def outlived_months(connection: Connection, *, today: date, days: int) -> Outlived:
    """Find the months that ended so many days ago, at least 29.

    Args:
        connection: with no transaction open.
        today: the UTC date.
        days: LOGINPIPE_RETENTION_DAYS.

    Raises:
        DatabaseError: the catalog cannot be read.
    """
    not_ours = in_turn(connection, partial(why_not_ours, table=USER_LOGINS), USER_LOGINS)
    if not_ours:
        return Outlived((), not_ours, 0)
    existing = in_turn(connection, partial(existing_partitions, table=USER_LOGINS), USER_LOGINS)
    months = sorted(outlived(existing, today, days))
    return Outlived(months, None, rows_in_default(connection, USER_LOGINS).get(USER_LOGINS, 0))


def drop_month(connection: Connection, month: Partition) -> str | None:
    """Detach and drop a month if every row of it is in the archive, compared while nobody can write to it.

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
