"""What analysts read beside ``user_logins``, computed by day: duplicates and daily counts."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from psycopg2 import sql

from loginpipe.postgres.connections import Connection, Cursor, transaction
from loginpipe.postgres.days import changes_of, read_committed, record_changes
from loginpipe.postgres.partitions import take_turn
from loginpipe.postgres.statements import statement

DUPLICATES: Mapping[str, str] = {
    "duplicate_devices": "masked_device_id",
    "duplicate_ips": "masked_ip",
}
"""Table in the schema ``loginpipe`` → its column of tokens."""

_SHOWN = 10


@dataclass(frozen=True)
class DuplicatesOfDay:
    """What was found for one day.

    Attributes:
        seen: distinct tokens on that day, placeholders aside.
        shared: how many of them more than one user has logged in from.
        top: the ten with the most users: token, users, logins, first date, last date.
    """

    seen: int
    shared: int
    top: tuple[tuple[str, int, int, date, date], ...]


@dataclass(frozen=True)
class LoginsOfDay:
    """Logins of one day, in all and by device type, locale and version (as text), the most frequent first."""

    logins: int
    by_device_type: Mapping[str, int]
    by_locale: Mapping[str, int]
    by_version: Mapping[str, int]


@dataclass(frozen=True)
class DayCounts:
    """Logins of a day, and how many of them name no locale."""

    logins: int
    null_locales: int


def refresh_duplicates(connection: Connection, table: str, day: date) -> DuplicatesOfDay:
    """Compute one day of a table of duplicates, a key of `DUPLICATES`, again, in one transaction.

    Raises:
        DatabaseError: the day is as it was.
    """
    token = sql.Identifier(DUPLICATES[table])
    qualified = sql.Identifier("loginpipe", table)
    with transaction(connection) as cursor:
        changes = _begin(cursor, table, day)
        cursor.execute(sql.SQL("DELETE FROM {} WHERE create_date = %s").format(qualified), (day,))
        of = {"day": day, "field": DUPLICATES[table].removeprefix("masked_")}
        cursor.execute(sql.SQL(statement("insert_duplicates")).format(table=qualified, token=token), of)
        shared = cursor.rowcount
        cursor.execute(
            sql.SQL(
                "SELECT {token}, users, logins, first_date, last_date FROM {table} WHERE create_date = %s "
                "ORDER BY users DESC, logins DESC, {token} LIMIT %s"
            ).format(token=token, table=qualified),
            (day, _SHOWN),
        )
        top = tuple(cursor.fetchall())
        cursor.execute(sql.SQL(statement("count_seen")).format(token=token), of)
        ((seen,),) = cursor.fetchall()
        record_changes(cursor, table, day, changes)
    return DuplicatesOfDay(seen, shared, top)


def refresh_daily_logins(connection: Connection, day: date) -> LoginsOfDay:
    """Compute one day of ``daily_logins`` again, in one transaction.

    Of a day that was dropped from ``user_logins``, the counts stay, and those of logins that came later are added.

    Raises:
        DatabaseError: the day is as it was.
    """
    with transaction(connection) as cursor:
        changes = _begin(cursor, "daily_logins", day)
        cursor.execute(statement("delete_daily_logins"), {"day": day})
        cursor.execute(statement("insert_daily_logins"), {"day": day})
        cursor.execute(statement("daily_breakdown"), {"day": day})
        found: dict[str, dict[str, int]] = {"device_type": {}, "locale": {}, "version": {}}
        for by, name, logins in cursor:
            found[by][str(name)] = logins
        record_changes(cursor, "daily_logins", day, changes)
    return LoginsOfDay(sum(found["device_type"].values()), found["device_type"], found["locale"], found["version"])


def daily_counts(connection: Connection, first: date, last: date) -> dict[date, DayCounts]:
    """Return the logins of each day as the asset ``daily_logins`` has counted them; days without any are left out."""
    with transaction(connection) as cursor:
        cursor.execute(statement("daily_counts"), {"first": first, "last": last})
        return {day: DayCounts(logins, null_locales) for day, logins, null_locales in cursor}


def _begin(cursor: Cursor, table: str, day: date) -> int:
    """Let no other computation of a day run; return how many of the day's changes this one is sure to have."""
    read_committed(cursor)
    # Two runs for one day would both delete nothing and both insert.
    take_turn(cursor, f"{table} {day}")
    return changes_of(cursor, day)
