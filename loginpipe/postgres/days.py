"""Count the changes of each day of ``user_logins``, and how many of these changes each asset has.

Every writer that changes a day adds a row to ``loginpipe.day_changes`` in the same transaction. A reader first counts
these rows into ``loginpipe.days``, then reads the number of changes of a day, then the logins of the day, and records
that number with its result. So the result has at least these changes, and a transaction that commits later leaves the
day due.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from typing import cast

from psycopg2 import sql

from loginpipe.postgres.connections import READ_COMMITTED, Connection, Cursor, fetch, rows_of, transaction
from loginpipe.postgres.statements import statement


def collect_changes(cursor: Cursor) -> None:
    """Count the changes that were committed since the last call.

    The transaction must be READ COMMITTED, and short, because concurrent calls wait for it.
    """
    cursor.execute(statement("collect_changes"))


@contextmanager
def changes_collected(connection: Connection) -> Iterator[Cursor]:
    """Open a transaction that begins with `collect_changes`, and yield its cursor."""
    with transaction(connection, READ_COMMITTED) as cursor:
        collect_changes(cursor)
        yield cursor


def changes_of(cursor: Cursor, day: date) -> int:
    """Return how many changes of a day are committed. Call it before its logins are read, for `record_changes`."""
    ((changes,),) = rows_of(cursor, statement("changes_of_day"), {"day": day})
    return int(changes)


def record_changes(cursor: Cursor, asset: str, day: date, changes: int) -> None:
    """Record how many changes of a day an asset has. Call it last in the transaction that writes the result.

    ``asset`` is a column of ``loginpipe.days``, ``changes`` what `changes_of` returned before the logins were read.
    """
    if changes:
        column = sql.Identifier(asset)
        cursor.execute(sql.SQL(statement("record_changes")).format(asset=column), {"day": day, "changes": changes})


def stale_days(connection: Connection, *, over: date | None = None) -> dict[date, list[str]]:
    """Return the days that have changed since their insights were computed, newest first, each with its stale tables.

    ``over`` is a past day that becomes due once because it has ended, even without logins.
    """
    # Changes are collected first, because that locks the days in order, and then waits for no other call.
    with changes_collected(connection) as cursor:
        if over is not None:
            cursor.execute(statement("close_day"), {"day": over})
        return dict(rows_of(cursor, statement("stale_days")))


def first_day(connection: Connection) -> date | None:
    """Return the first known day with rows in ``user_logins``, also rows that are gone; None without any."""
    query = "SELECT least((SELECT min(day) FROM loginpipe.days), min(day)) FROM loginpipe.day_changes"
    ((first,),) = fetch(connection, query)
    return cast("date | None", first)
