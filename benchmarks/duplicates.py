"""What the newest day of duplicates costs as the table grows: seconds, and CPU seconds of Postgres.

`make bench-duplicates`. A million users, each with a device and an address of their own, one in 50 of them on a device of
another's, four to a household's address; every fifth login from one of a thousand addresses that many share. The days are
computed as they come, as in operation, so that each begins with what is kept of those before.
"""

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Final

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.ground import MIGRATED, execute, rows, running_ground
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
    SELECT user_id, 'ios', CASE WHEN login % 5 = 0 THEN 'ip.v1.' || rpad(md5((login % 5000)::text), 43, 'x') ELSE home END,
        device, NULL, 2003000, '{day}'
    FROM (
        SELECT login, floor(random() * 1000000)::integer AS number FROM generate_series(1, {number}) AS login OFFSET 0
    ) AS chosen
    JOIN public.bench_users USING (number)
"""
_NOTED: Final = "INSERT INTO loginpipe.day_changes VALUES ('{day}')"
_LOG: Final = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')"


def main() -> None:
    """Measure, write the report and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.duplicates", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[3_000_000, 30_000_000])
    parser.add_argument("--logins", type=int, default=300_000, help="a day")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    options = parser.parse_args()
    found = []
    with running_ground() as ground, ground.database(MIGRATED) as database_url:
        execute(database_url, _USERS)
        first = datetime.now(UTC).date() - timedelta(days=max(options.rows) // options.logins)
        for size in sorted(options.rows):
            found += _at(database_url, size, options.logins, first)
    report = {"logins_a_day": options.logins, "measured": found}
    _REPORT.write_text(json.dumps(report, indent=1) + "\n")
    print_figures(found, as_json=options.json)


def _at(database_url: str, size: int, logins: int, first: date) -> list[dict[str, float | str]]:
    """Fill the table up to a size, and measure the day that closes and the newest one, which is not over.

    Args:
        database_url: of a database with the users, and with the days of smaller sizes.
        size: rows in the end, the newest day aside.
        logins: of a day.
        first: the first day.
    """
    found: list[dict[str, float | str]] = []
    newest = datetime.now(UTC).date()
    with closing(connect(database_url)) as connection:
        ((there,),) = rows(database_url, "SELECT count(*) FROM loginpipe.days WHERE changes > 0 AND day < current_date")
        for number in range(int(there), size // logins):
            day = first + timedelta(days=number)
            ensure_month(connection, day)
            _add(database_url, day, logins)
            for table in DUPLICATES:
                used = _used(connection, lambda t=table, d=day: refresh_duplicates(connection, t, d))
                if number >= size // logins - 3:
                    found.append({"rows": size, "table": table, "what": "a day that is over", **used})
            if number % 10 == 9:
                execute(database_url, "VACUUM ANALYZE")
        execute(database_url, "VACUUM ANALYZE")
        execute(database_url, "CHECKPOINT")
        _add(database_url, newest, logins)
        for what, new in (("the newest day, all of it new", 0), ("the newest day, 2,000 logins more", 2_000)):
            if new:
                _add(database_url, newest, new)
            for table in DUPLICATES:
                used = _used(connection, lambda t=table: refresh_duplicates(connection, t, newest))
                found.append({"rows": size, "table": table, "what": what, **used})
    # The next size begins as if this day had not been.
    for table in ("public.user_logins", *(f"loginpipe.{table}" for table in DUPLICATES)):
        execute(database_url, f"DELETE FROM {table} WHERE create_date = '{newest}'")  # noqa: S608 - ours
    execute(database_url, f"DELETE FROM loginpipe.days WHERE day = '{newest}'")  # noqa: S608
    return found


def _add(database_url: str, day: date, number: int) -> None:
    execute(database_url, _LOGINS.format(day=day, number=number))
    execute(database_url, _NOTED.format(day=day))


def _used(connection: Connection, work: Callable[[], object]) -> dict[str, float]:
    """Do work on a connection; return the seconds, the CPU seconds of its backend and the bytes of the log."""
    backend = psutil.Process(connection.info.backend_pid)

    def cpu() -> float:
        times = backend.cpu_times()
        return float(times.user + times.system)

    def log() -> int:
        with connection.cursor() as cursor:
            cursor.execute(_LOG)
            ((position,),) = cursor.fetchall()
        connection.rollback()
        return int(position)

    before, log_before, began = cpu(), log(), monotonic()
    work()
    return {"seconds": monotonic() - began, "cpu_seconds": cpu() - before, "log_bytes": log() - log_before}


def print_figures(found: list[dict[str, float | str]], *, as_json: bool) -> None:
    """Print seconds, CPU seconds and megabytes of the write-ahead log."""
    if as_json:
        json.dump(found, sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    table = Table(title="Duplicates of a day")
    for column in ("rows", "table", "", "s", "CPU s of Postgres", "MB of log"):
        table.add_column(column, justify="right" if column not in {"table", ""} else "left")
    for row in found:
        table.add_row(
            f"{row['rows']:,}", str(row["table"]), str(row["what"]), f"{row['seconds']:.2f}", f"{row['cpu_seconds']:.2f}",
            f"{float(row['log_bytes']) / 1e6:,.0f}",
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()
