"""How often each day of ``user_logins`` has changed, and how many of these changes each asset has.

Whoever changes a day adds a row to ``loginpipe.day_changes`` in the same transaction. A reader first counts these rows
into ``loginpipe.days``, then reads how many changes a day has, then the logins of the day, and records that number with
its result. So its result has at least these changes, and a transaction that commits later leaves the day due.
"""

from datetime import date
from typing import cast

from psycopg2 import sql

from loginpipe.postgres.connections import Connection, Cursor, transaction
from loginpipe.postgres.statements import statement


def read_committed(cursor: Cursor) -> None:
    """Begin a transaction each statement of which sees what was committed before it, whatever the server's default."""
    cursor.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")


def collect_changes(cursor: Cursor) -> None:
    """Count the changes that were committed since the last time.

    Args:
        cursor: in a short transaction in READ COMMITTED: another one that collects waits for it.
    """
    cursor.execute(statement("collect_changes"))


def changes_of(cursor: Cursor, day: date) -> int:
    """Return how many changes of a day are committed: to be asked before its logins are read, for `record_changes`."""
    cursor.execute(statement("changes_of_day"), {"day": day})
    ((changes,),) = cursor.fetchall()
    return int(changes)


def record_changes(cursor: Cursor, asset: str, day: date, changes: int) -> None:
    """Record how many changes of a day an asset has: last in the transaction that writes its result.

    Args:
        cursor: in that transaction.
        asset: a column of ``loginpipe.days``.
        day: the UTC date.
        changes: of `changes_of`, asked before the logins were read.
    """
    if changes:
        column = sql.Identifier(asset)
        cursor.execute(sql.SQL(statement("record_changes")).format(asset=column), {"day": day, "changes": changes})


def stale_days(connection: Connection, *, over: date | None = None) -> dict[date, list[str]]:
    """Return the days that have changed since their insights were computed, newest first, each with its stale tables.

    Args:
        connection: with no transaction open.
        over: a day that is over and becomes due once for that, with logins or without.
    """
    with transaction(connection) as cursor:
        read_committed(cursor)
        # First: it takes its locks in the order of the days, and then waits for no other that collects.
        collect_changes(cursor)
        if over is not None:
            cursor.execute(statement("close_day"), {"day": over})
        cursor.execute(statement("stale_days"))
        return dict(cursor.fetchall())


def first_day(connection: Connection) -> date | None:
    """Return the first day that ``user_logins`` ever had rows of, as far as it is known; None where it had none."""
    with transaction(connection) as cursor:
        cursor.execute("SELECT least((SELECT min(day) FROM loginpipe.days), min(day)) FROM loginpipe.day_changes")
        ((first,),) = cursor.fetchall()
    return cast("date | None", first)
