"""Measure the bytes of a message in Postgres: in each table with its indexes, and in the write-ahead log.

`make bench-storage` provides the figures for docs/scaling.md. It makes two runs: one with only new values, then one
with the same values again. Sizes are measured right after the load, of tables that are only appended to.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.ground import MIGRATED, Ground, rows, running_ground
from benchmarks.measuring import measured
from benchmarks.plan import OURS_NEW, QUICK, baselines
from benchmarks.workload import distinct_bodies

_REPORT: Final = Path(__file__).parent / "report" / "storage.json"
_SIZES: Final = """
    SELECT CASE WHEN relname LIKE 'user_logins%' THEN 'user_logins'
                WHEN relname LIKE 'ingested_messages%' THEN 'ledger'
                ELSE 'vault' END,
           sum(pg_total_relation_size(pg_class.oid))
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relkind = 'r' AND (nspname = 'vault' OR relname LIKE 'user_logins%' OR relname LIKE 'ingested_messages%')
    GROUP BY 1
"""
_LOG: Final = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')"


def main() -> None:
    """Measure, write the report and print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.storage", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--json", action="store_true", help="print JSON only")
    options = parser.parse_args()
    with running_ground() as ground:
        found = bytes_a_message(ground, options.messages)
    _REPORT.write_text(json.dumps({"messages": options.messages, "bytes_a_message": found}, indent=1) + "\n")
    print_figures(found, options.messages, as_json=options.json)


def bytes_a_message(ground: Ground, messages: int) -> dict[str, dict[str, float]]:
    """Return bytes per message, by kind of the values and by place."""
    bodies = list(distinct_bodies(1, messages))
    with ground.database(MIGRATED) as database_url:
        found, before = {}, _bytes(database_url)
        for values in ("all values new", "all values known"):
            _ingest(ground, bodies, database_url)
            after = _bytes(database_url)
            found[values] = {place: (after[place] - before[place]) / messages for place in after}
            before = after
    return found


def _ingest(ground: Ground, bodies: list[str], database_url: str) -> None:
    (ours,) = [baseline for baseline in baselines(QUICK) if baseline.name == OURS_NEW]
    with ground.queue(bodies) as queue:
        variables = {**ground.variables(queue.name, database_url), **ours.variables}
        with measured(ours.command, variables, ground.folder) as run:
            run.used()


def _bytes(database_url: str) -> dict[str, int]:
    ((log,),) = rows(database_url, _LOG)
    return {str(table): int(size) for table, size in rows(database_url, _SIZES)} | {"write-ahead log": int(log)}


def print_figures(found: dict[str, dict[str, float]], messages: int, *, as_json: bool) -> None:
    """Print bytes per message."""
    if as_json:
        json.dump({"messages": messages, "bytes_a_message": found}, sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    table = Table(title=f"Bytes a message in Postgres, indexes included, {messages:,} messages")
    table.add_column("")
    for values in found:
        table.add_column(values, justify="right")
    for place in next(iter(found.values())):
        table.add_row(place, *(f"{of_place[place]:,.0f}" for of_place in found.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
