"""Compute by day what analysts read besides ``user_logins``: duplicates and daily counts.

The cost of duplicates depends on the size of the day, not of the history. ``loginpipe.device_users`` and
``loginpipe.ip_users`` keep which user was seen with which token on past days, by token, user and day. A day's entry is
set, never added to, so a repeated, interrupted or late computation gives the same result. The current day is not kept
yet: its rows follow from its logins and the kept days.
"""

from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any, NamedTuple

from psycopg2 import sql

from loginpipe.postgres.connections import READ_COMMITTED, Connection, Cursor, fetch, rows_of, transaction
from loginpipe.postgres.days import changes_collected, changes_of, collect_changes, record_changes, stale_days
from loginpipe.postgres.partitions import take_turn
from loginpipe.postgres.statements import statement

DUPLICATES: Mapping[str, str] = {"duplicate_devices": "masked_device_id", "duplicate_ips": "masked_ip"}
"""Table in the schema ``loginpipe`` → its token column."""

# The kept tables of each, by month and by day; the first is also a column of ``loginpipe.days``.
_KEPT = {"duplicate_devices": ("device_users", "device_days"), "duplicate_ips": ("ip_users", "ip_days")}


class DuplicatesOfDay(NamedTuple):
    """The distinct tokens of a day, without placeholders, and how many of them more than one user has logged in from.

    ``top`` has the ten with the most users: token, users, logins, first date, last date.
    """

    seen: int
    shared: int
    top: tuple[tuple[str, int, int, date, date], ...]


class LoginsOfDay(NamedTuple):
    """Logins of one day, in total and by device type, locale and version (as text), the most frequent first."""

    logins: int
    by_device_type: Mapping[str, int]
    by_locale: Mapping[str, int]
    by_version: Mapping[str, int]


class DayCounts(NamedTuple):
    """Logins of a day, and those without a locale."""

    logins: int
    null_locales: int


class Sample(NamedTuple):
    """How many tokens of a day were compared, and how many of them differ. Without a day there is none to compare."""

    day: date | None
    tokens: int = 0
    differing: int = 0


def refresh_duplicates(connection: Connection, table: str, day: date) -> DuplicatesOfDay:
    """Recompute one day of a table of duplicates, a key of `DUPLICATES`, in one transaction.

    Earlier past days whose kept rows are out of date are computed first, in a transaction each, because this day's rows
    depend on them. Rows of later days that change are recomputed too.
    """
    with changes_collected(connection) as cursor:
        earlier = rows_of(cursor, _sql("days_to_keep", table), {"before": day})
    for (day_before,) in earlier:
        _refresh_day(connection, table, day_before)
    return _refresh_day(connection, table, day)


def _refresh_day(connection: Connection, table: str, day: date) -> DuplicatesOfDay:
    of: dict[str, Any] = {**_parameters(table), "day": day, "month": day.replace(day=1), "place": day.day}
    with transaction(connection, READ_COMMITTED) as cursor:
        # An erasure takes this turn too, so it waits for transactions that have read the user's logins.
        take_turn(cursor, table)
        changes = changes_of(cursor, day)
        cursor.execute(statement("begin_duplicates"))
        ((tokens_changed, of["dropped"], kept, of["today"]),) = rows_of(cursor, _sql("read_day", table), of)
        ((has_logins,),) = rows_of(cursor, "ANALYZE day_pairs; SELECT EXISTS (SELECT FROM day_pairs)")
        # A day that was dropped before it was kept keeps its rows only, until it is restored.
        to_keep = day < of["today"] and (kept or not of["dropped"])
        if tokens_changed:
            cursor.execute(_sql("merge_aliased", table), of)
        days_changed = to_keep and _keep(cursor, table, of)
        if tokens_changed or days_changed:
            cursor.execute(_sql("compute_changed", table), of)
            cursor.execute(_sql("note_open_days", table), of)
        count = _sql("count_seen", table) if of["dropped"] else _sql("compute_day", table)
        ((seen,),) = rows_of(cursor, count, of)
        rows = rows_of(cursor, _sql("top_duplicates", table), {**of, "limit": 10})
        # Last, because concurrent `collect_changes` calls wait for these rows until the commit.
        record_changes(cursor, table, day, changes)
        if to_keep and (has_logins or changes):
            cursor.execute(_sql("record_state", table), {**of, "changes": changes})
    return DuplicatesOfDay(seen, rows[0][-1] if rows else 0, tuple(row[:-1] for row in rows))


def _keep(cursor: Cursor, table: str, of: Mapping[str, Any]) -> bool:
    """Keep the day; return True if this changed what is kept."""
    part = "late" if of["dropped"] else "logins"
    ((kept,),) = rows_of(cursor, _sql("keep_day", table, part=part), of)
    if not of["dropped"]:
        cursor.execute(_sql("keep_restored", table), of)
    return bool(kept)


def rebuild_duplicates(connection: Connection, table: str) -> Iterator[tuple[int, int]]:
    """Recompute a table of duplicates, a key of `DUPLICATES`, and its kept tables from ``user_logins``.

    Days that only the archive holds stay as they are. After an interruption, the next ``refresh_insights`` run computes
    the rest. It yields after each day the number of days done and of all days.
    """
    with transaction(connection, READ_COMMITTED) as cursor:
        take_turn(cursor, table)
        collect_changes(cursor)
        cursor.execute(_sql("forget_kept", table))
        cursor.execute(_sql("forget_days", table))
    days = sorted(day for day, tables in stale_days(connection).items() if table in tables)
    for done, day in enumerate(days, 1):
        refresh_duplicates(connection, table, day)
        yield done, len(days)


def compare_duplicates(connection: Connection, table: str, *, limit: int) -> Sample:
    """Compare up to ``limit`` random tokens of a random recent day with a computation from its logins."""
    with changes_collected(connection) as cursor:
        found = rows_of(cursor, _sql("day_to_compare", table))
    if not found:
        return Sample(None)
    ((day,),) = found
    of = {**_parameters(table), "day": day, "limit": limit}
    ((tokens, differing),) = fetch(connection, _sql("compare_duplicates", table, tokens="sample"), of)
    return Sample(day, tokens, differing)


def _parameters(table: str) -> dict[str, str]:
    return {"asset": table, "field": DUPLICATES[table].removeprefix("masked_")}


def _sql(name: str, table: str, *, part: str = "logins", tokens: str = "changed_tokens") -> sql.Composable:
    """Return a statement for one of the two tables.

    ``part`` is the column of the kept table for the day, ``tokens`` the relation with the tokens to compute rows for.
    """
    state, days = _KEPT[table]
    names: dict[str, sql.Composable] = {
        "asset": sql.Identifier(table),
        "table": sql.Identifier("loginpipe", table),
        "token": sql.Identifier(DUPLICATES[table]),
        "state": sql.Identifier(state),
        "users": sql.Identifier("loginpipe", state),
        "days": sql.Identifier("loginpipe", days),
        "part": sql.Identifier(part),
        "tokens": sql.Identifier(tokens),
    }
    return sql.SQL(statement(name)).format(**names, kept_rows=sql.SQL(statement("kept_rows")).format(**names))


def refresh_daily_logins(connection: Connection, day: date) -> LoginsOfDay:
    """Recompute one day of ``daily_logins``, in one transaction.

    For a day that was dropped from ``user_logins``, the counts stay, and those of later logins are added.
    """
    with transaction(connection, READ_COMMITTED) as cursor:
        # Otherwise two runs for one day would both delete nothing and both insert.
        take_turn(cursor, f"daily_logins {day}")
        changes = changes_of(cursor, day)
        cursor.execute(statement("delete_daily_logins"), {"day": day})
        cursor.execute(statement("insert_daily_logins"), {"day": day})
        found: dict[str, dict[str, int]] = {"device_type": {}, "locale": {}, "version": {}}
        for by, name, logins in rows_of(cursor, statement("daily_breakdown"), {"day": day}):
            found[by][str(name)] = logins
        record_changes(cursor, "daily_logins", day, changes)
    return LoginsOfDay(sum(found["device_type"].values()), found["device_type"], found["locale"], found["version"])


def daily_counts(connection: Connection, first: date, last: date) -> dict[date, DayCounts]:
    """Return the logins of each day as counted by the asset ``daily_logins``; days without logins are left out."""
    rows = fetch(connection, statement("daily_counts"), {"first": first, "last": last})
    return {day: DayCounts(*counts) for day, *counts in rows}
