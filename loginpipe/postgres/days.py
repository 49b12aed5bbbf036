"""Count the changes of each day of ``user_logins``, and how many of these changes each asset has.

Every writer that changes a day adds a row to ``loginpipe.day_changes`` in the same transaction. A reader first counts
these rows into ``loginpipe.days``, then reads the number of changes of a day, then the logins of the day, and records
that number with its result. So the result has at least these changes, and a transaction that commits later leaves the
day due.
"""

from datetime import date
from typing import cast

from psycopg2 import sql

from loginpipe.postgres.connections import Connection, Cursor, transaction
from loginpipe.postgres.statements import statement


def read_committed(cursor: Cursor) -> None:
    """Start the transaction in READ COMMITTED, in which each statement sees what was committed before it."""
    cursor.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")


def collect_changes(cursor: Cursor) -> None:
    """Count the changes that were committed since the last call.

    Args:
        cursor: in a short READ COMMITTED transaction, because concurrent calls wait for it.
    """
    cursor.execute(statement("collect_changes"))


def changes_of(cursor: Cursor, day: date) -> int:
    """Return how many changes of a day are committed. Call it before its logins are read, for `record_changes`."""
    cursor.execute(statement("changes_of_day"), {"day": day})
    ((changes,),) = cursor.fetchall()
    return int(changes)


def record_changes(cursor: Cursor, asset: str, day: date, changes: int) -> None:
    """Record how many changes of a day an asset has. Call it last in the transaction that writes the result.

    Args:
        cursor: in that transaction.
        asset: a column of ``loginpipe.days``.
        day: the UTC date.
        changes: the result of `changes_of` from before the logins were read.
    """
    if changes:
        column = sql.Identifier(asset)
        cursor.execute(sql.SQL(statement("record_changes")).format(asset=column), {"day": day, "changes": changes})


def stale_days(connection: Connection, *, over: date | None = None) -> dict[date, list[str]]:
    """Return the days that have changed since their insights were computed, newest first, each with its stale tables.

    Args:
        connection: with no transaction open.
        over: a past day that becomes due once because it has ended, even without logins.
    """
    with transaction(connection) as cursor:
        read_committed(cursor)
        # First, because it locks the days in order, and then waits for no other call.
        collect_changes(cursor)
        if over is not None:
            cursor.execute(statement("close_day"), {"day": over})
        cursor.execute(statement("stale_days"))
        return dict(cursor.fetchall())


def first_day(connection: Connection) -> date | None:
    """Return the first known day with rows in ``user_logins``, also rows that are gone; None without any."""
    with transaction(connection) as cursor:
        cursor.execute("SELECT least((SELECT min(day) FROM loginpipe.days), min(day)) FROM loginpipe.day_changes")
        ((first,),) = cursor.fetchall()
    return cast("date | None", first)
