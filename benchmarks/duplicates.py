"""Measure the cost of the newest day of duplicates as the table grows: seconds, and CPU seconds of Postgres.

`make bench-duplicates` runs it. There are a million users, each with an own device, but one in 50 uses the device of
another. Four users share the address of a household, and every fifth login comes from one of a thousand addresses that
many users share. Statements fill in the kept pairs of earlier days, a month at a time, and the newest earlier row of
each token.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from pathlib import Path
from time import monotonic
from typing import Final

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.ground import MIGRATED, Ground, execute, running_ground
from loginpipe.postgres.connections import Connection, connect
from loginpipe.postgres.insights import DUPLICATES, refresh_duplicates
from loginpipe.postgres.partitions import ensure_month

_REPORT: Final = Path(__file__).parent / "report" / "duplicates.json"
_USERS: Final = """
    CREATE UNLOGGED TABLE public.bench_users AS
    SELECT
        number,
        md5('user' || number)::uuid::text AS user_id,
        'dev.v1.' || translate(left(encode(sha256(convert_to('dev' || device, 'UTF8')), 'base64'), 43), '+/', '-_')
            AS device,
        'ip.v1.' || translate(left(encode(sha256(convert_to('ip' || number / 4, 'UTF8')), 'base64'), 43), '+/', '-_')
            AS home
    FROM generate_series(0, 999999) AS number,
        LATERAL (SELECT CASE WHEN number % 50 = 1 THEN number - 1 ELSE number END AS device) AS shared
"""
_LOGINS: Final = """
    INSERT INTO public.user_logins
    SELECT
        user_id, 'ios',
        CASE WHEN login % 5 = 0 THEN 'ip.v1.' || rpad(md5((login % 5000)::text), 43, 'x') ELSE home END,
        device, NULL, 2003000, '{first}'::date + (login % {days})::integer
    FROM (
        SELECT login, floor(random() * 1000000)::integer AS number FROM generate_series(1, {number}) AS login OFFSET 0
    ) AS chosen
    JOIN public.bench_users USING (number)
"""
# The pairs that the computation of each of these days would have kept.
_KEPT: Final = """
    INSERT INTO loginpipe.{users} ({token}, user_id, month, logins)
    SELECT {token}, user_id, '{month}', ARRAY[{places}]
    FROM public.user_logins
    WHERE create_date >= '{month}' AND create_date < '{month}'::date + interval '1 month'
    GROUP BY {token}, user_id
    ORDER BY {token} COLLATE "C", user_id COLLATE "C"
"""
_PLACE: Final = "nullif(count(*) FILTER (WHERE create_date = '{month}'::date + {number}), 0)"
_NEWEST: Final = """
    INSERT INTO loginpipe.{table}
    SELECT
        '{last}', {token}, count(DISTINCT user_id), sum((SELECT sum(number) FROM unnest(logins) AS number)),
        min(month), '{last}'
    FROM loginpipe.{users}
    GROUP BY {token}
    HAVING count(DISTINCT user_id) > 1
"""
_USERS_OF: Final = {"duplicate_devices": "device_users", "duplicate_ips": "ip_users"}
_NOTED: Final = "INSERT INTO loginpipe.day_changes VALUES ('{day}')"
_LOG: Final = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')"

Figures = dict[str, float | str]


def main() -> None:
    """Measure, write the report and print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.duplicates", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[3_000_000, 30_000_000])
    parser.add_argument("--logins", type=int, default=300_000, help="a day")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    options = parser.parse_args()
    found: list[Figures] = []
    with running_ground() as ground:
        for size in options.rows:
            found += _at(ground, size, options.logins)
    _REPORT.write_text(json.dumps({"logins_a_day": options.logins, "measured": found}, indent=1) + "\n")
    print_figures(found, as_json=options.json)


def _at(ground: Ground, size: int, logins: int) -> Iterator[Figures]:
    """Fill a table, then measure the newest day, which is not over, and the day before it, as it closes."""
    today = datetime.now(UTC).date()
    yesterday, days = today - timedelta(days=1), size // logins - 1
    with ground.database(MIGRATED) as database_url, closing(connect(database_url)) as connection:
        execute(database_url, _USERS)
        _fill(database_url, connection, [yesterday - timedelta(days=number) for number in range(days, 0, -1)], logins)
        execute(database_url, "VACUUM ANALYZE")
        for day in (yesterday, today):
            _add(database_url, day, logins)
            execute(database_url, "CHECKPOINT")
            what = "the newest day, all new" if day == today else "a day that is over"
            yield from _refreshed(connection, size, what, day)
        _add(database_url, today, 2_000)
        yield from _refreshed(connection, size, "the newest day, 2,000 logins more", today)


def _fill(database_url: str, connection: Connection, days: list[date], logins: int) -> None:
    for month, of_month in groupby(days, lambda day: day.replace(day=1)):
        first, *others = of_month
        number = 1 + len(others)
        ensure_month(connection, first)
        execute(database_url, _LOGINS.format(first=first, days=number, number=number * logins))
        places = ", ".join(_PLACE.format(month=month, number=place) for place in range(31))
        for table, token in DUPLICATES.items():
            _in_memory(database_url, _KEPT.format(users=_USERS_OF[table], token=token, month=month, places=places))
    for table, token in DUPLICATES.items():
        users = _USERS_OF[table]
        _in_memory(database_url, _NEWEST.format(table=table, token=token, users=users, last=days[-1]))
    kept = "INSERT INTO loginpipe.days (day, changes, duplicate_devices, duplicate_ips, device_users, ip_users) VALUES"
    execute(database_url, kept + ", ".join(f"('{day}', 1, 1, 1, 1, 1)" for day in days))


def _in_memory(database_url: str, statement: str) -> None:
    execute(database_url, f"SET work_mem = '1GB'; {statement}")


def _add(database_url: str, day: date, number: int) -> None:
    execute(database_url, _LOGINS.format(first=day, days=1, number=number))
    execute(database_url, _NOTED.format(day=day))


def _refreshed(connection: Connection, size: int, what: str, day: date) -> Iterator[Figures]:
    for table in DUPLICATES:
        yield {"rows": size, "table": table, "what": what, **_used(connection, table, day)}


def _used(connection: Connection, table: str, day: date) -> dict[str, float]:
    """Compute a day; return the seconds, the CPU seconds of the server process and the bytes of the write-ahead log."""
    server = psutil.Process(connection.info.backend_pid)

    def position() -> int:
        with connection.cursor() as cursor:
            cursor.execute(_LOG)
            ((position,),) = cursor.fetchall()
        connection.rollback()
        return int(position)

    def cpu() -> float:
        times = server.cpu_times()
        return float(times.user + times.system)

    log, used, began = position(), cpu(), monotonic()
    refresh_duplicates(connection, table, day)
    return {"seconds": monotonic() - began, "cpu_seconds": cpu() - used, "log_bytes": position() - log}


def print_figures(found: list[Figures], *, as_json: bool) -> None:
    """Print seconds, CPU seconds and megabytes of the write-ahead log."""
    if as_json:
        json.dump(found, sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    table = Table(title="Duplicates of a day")
    for column in ("rows", "table", "", "s", "CPU s of Postgres", "MB of log"):
        table.add_column(column, justify="left" if column in {"table", ""} else "right")
    for row in found:
        table.add_row(
            f"{row['rows']:,}",
            str(row["table"]),
            str(row["what"]),
            f"{row['seconds']:.2f}",
            f"{row['cpu_seconds']:.2f}",
            f"{float(row['log_bytes']) / 1e6:,.0f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
