"""The commands for the archive."""

from dataclasses import asdict
from datetime import UTC, date, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from loginpipe.cli.output import Json, new_app, new_table, notes, out, print_json, print_result, progress
from loginpipe.cli.warehouse import connect_to_warehouse
from loginpipe.common.errors import ArchivedDayError
from loginpipe.common.settings import load_settings

if TYPE_CHECKING:
    from loginpipe.postgres.archive import ArchivedDay

app = new_app("Archived days of user_logins in Parquet files: list, verify and restore them.")

_FORMAT = ["%Y-%m-%d"]
_DAYS = typer.Argument(help="UTC days. Default: all archived days.", formats=_FORMAT, metavar="DAY")


@app.command("list")
def list_(*, as_json: Json = False) -> None:
    """List the archived days, oldest first: rows, size, time of the last verification, and file.

    Example: loginpipe archive list --json | jq -r '.[].url'
    """
    from loginpipe.postgres.archive import archived_days

    with connect_to_warehouse(load_settings()) as connection:
        days = archived_days(connection)
    if as_json:
        print_json([asdict(day) for day in days])
        return
    columns = ("day", "rows", "bytes", "verified (UTC)", "in user_logins", "file")
    table = new_table(columns, wraps="file", numbers={"rows", "bytes"})
    for day in days:
        verified = f"{day.verified_at:%Y-%m-%d %H:%M:%S}" if day.verified_at else "no"
        table.add_row(str(day.day), f"{day.row_count:,}", f"{day.file_bytes:,}", verified, _whereabouts(day), day.url)
    out.print(table)


@app.command()
def verify(days: Annotated[list[datetime] | None, _DAYS] = None, *, as_json: Json = False) -> None:
    """Read archived days back and compare them with what was recorded when they were written.

    Exits with 1 if a day differs. The job archive_logins writes a missing or damaged file again while its day is still
    in user_logins. A month with such a file is never dropped.

    Example: loginpipe archive verify 2026-11-20 2026-11-21
    """
    from loginpipe.archive.days import verify_day
    from loginpipe.archive.store import Stores
    from loginpipe.postgres.archive import archived_days

    settings = load_settings()
    stores = Stores(settings)
    with connect_to_warehouse(settings) as connection, progress() as bar:
        records = _chosen(archived_days(connection), [day.date() for day in days or []])
        task = bar.add_task("verifying", total=sum(record.file_bytes for record in records))
        problems: dict[date, str] = {}
        for record in records:
            if problem := verify_day(connection, record=record, stores=stores):
                problems[record.day] = problem
            bar.advance(task, record.file_bytes)
    whole = len(records) - len(problems)
    print_result(
        {"verified": whole, "problems": {str(day): problem for day, problem in problems.items()}},
        f"{whole:,} of {len(records):,} archived days are intact",
        as_json=as_json,
    )
    for problem in problems.values():
        notes.print(f"error: {problem}", markup=False)
    if problems:
        raise typer.Exit(1)


@app.command()
def restore(
    day: Annotated[datetime, typer.Argument(help="The UTC day.", formats=_FORMAT, metavar="DAY")],
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and compare the file; insert nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Restore a day into user_logins, with exactly its rows. Retention keeps it for 30 days; run again for 30 more.

    Users who were erased after the day was archived are left out. If there are any, the command needs the token keys to
    recognize them. If the day was dropped, rows that arrived since stay in the table. If it was not dropped, nothing is
    restored if the table has other rows of that day.

    Example: loginpipe archive restore 2026-03-14 --dry-run
    """
    from loginpipe.archive.restore import restore_day
    from loginpipe.archive.store import Stores
    from loginpipe.cli.custody import load_known_token_keys
    from loginpipe.postgres.archive import archived_days

    settings = load_settings()
    with connect_to_warehouse(settings) as connection, progress() as bar:
        (record,) = _chosen(archived_days(connection), [day.date()])
        restored = restore_day(
            connection,
            day=record.day,
            token_keys=lambda: load_known_token_keys(settings, connection),
            stores=Stores(settings),
            dry_run=dry_run,
            progress=partial(bar.advance, bar.add_task("restoring", total=record.row_count)),
        )
    if as_json:
        print_json({"day": str(record.day), **asdict(restored), "dry_run": dry_run})
        return
    if restored.already_there:
        out.print(f"{record.day} is already in the table, with exactly the rows of its file")
        return
    out.print(f"{'would restore' if dry_run else 'restored'} {restored.rows:,} rows of {record.day}")
    if restored.erased:
        out.print(f"{'would leave' if dry_run else 'left'} out {restored.erased:,} rows of users who were erased since")
    if restored.beside:
        out.print(f"{restored.beside:,} rows that arrived after the day was dropped stay in the table")


def _chosen(records: list["ArchivedDay"], days: list[date]) -> list["ArchivedDay"]:
    by_day = {record.day: record for record in records}
    for day in days:
        if day not in by_day:
            raise ArchivedDayError(
                f"{day} is not in the archive: run `loginpipe archive list` to see the archived days"
            )
    return [by_day[day] for day in sorted(set(days))] if days else records


def _whereabouts(day: "ArchivedDay") -> str:
    if day.dropped_at:
        return f"dropped {day.dropped_at:%Y-%m-%d}"
    return f"kept until {day.kept_until}" if day.kept_until and day.kept_until >= datetime.now(UTC).date() else "yes"
