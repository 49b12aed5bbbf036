"""The commands for the database: its schema, its backups; and how every command connects to it."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loginpipe.cli.output import Json, new_app, notes, out, print_json, print_result, progress, step
from loginpipe.common.secrets import database_url
from loginpipe.common.settings import Settings, load_settings

if TYPE_CHECKING:
    from loginpipe.postgres.connections import Connection


app = new_app("Backups of a self-hosted database with pg_dump. For managed databases, see docs/backups.md.")
insights = new_app("The tables of duplicate devices and addresses, which are computed from user_logins.")

Dump = Annotated[Path, typer.Argument(help="Dump file; its manifest must be beside it.", metavar="DUMP")]


def migrate(
    *,
    to: Annotated[
        str | None,
        typer.Option(
            help="Undo the migrations after this revision, before you deploy older code. What was written since to the "
            "tables and columns that they added is lost. Stop the pipeline first.",
            metavar="REVISION",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Migrate the database in LOGINPIPE_DATABASE_URL to the current schema. An existing user_logins stays unchanged.

    The command lists everything in that table that refuses, changes or loses logins: see docs/tables.md.

    Example: loginpipe migrate
    """
    from loginpipe.postgres import migrate as migrations
    from loginpipe.postgres.contract import read_row_forms
    from loginpipe.postgres.days import first_day

    settings = load_settings()
    if to is not None:
        before = migrations.undo(database_url(settings), to)
        print_result({"before": before, "after": to}, f"migrated back from {before} to {to}", as_json=as_json)
        return
    result = migrations.migrate(database_url(settings), table_is_named=settings.names_the_table)
    with connect_to_warehouse(settings) as connection:
        rows = list(read_row_forms(connection).findings(settings.masking)) if result.adopted else []
        first = first_day(connection) or datetime.now(UTC).date()
    if as_json:
        schema = {"before": result.before, "after": result.after, "table": settings.table, "adopted": result.adopted}
        print_json({**schema, "findings": result.findings, "rows": rows, "first_day": str(first)})
        return
    if result.before == result.after:
        out.print(f"up to date at {result.after}")
    else:
        adopted = f"; the existing table {settings.table} is adopted unchanged" if result.adopted else ""
        out.print(f"migrated from {result.before or 'an empty database'} to {result.after}{adopted}")
    for finding in [*result.findings, *rows]:
        out.print(f"{settings.table}: {finding}", markup=False)
    if settings.first_day is None:
        notes.print(
            f"set LOGINPIPE_FIRST_DAY={first}, so that the daily assets begin with the first day of user_logins"
        )


@contextmanager
def connect_to_warehouse(settings: Settings) -> "Iterator[Connection]":
    """Connect to the migrated database in LOGINPIPE_DATABASE_URL."""
    from loginpipe.postgres.connections import connect
    from loginpipe.postgres.migrate import require_migrated

    with closing(connect(database_url(settings))) as connection:
        require_migrated(connection)
        yield connection


@app.command()
def create(
    folder: Annotated[Path, typer.Argument(help="Folder for the dump and its manifest.", metavar="FOLDER")],
    *,
    as_json: Json = False,
) -> None:
    """Back up the database in LOGINPIPE_DATABASE_URL as a dump and a manifest of one moment. The pipeline may run.

    Connect as the owner or as a member of pg_read_all_data. The dump holds user ids and tokens; sealed values stay
    sealed.

    Example: loginpipe backup create /var/backups/loginpipe
    """
    from loginpipe.backup.backups import create_backup

    url = database_url(load_settings())
    with step("counting and dumping"):
        dump, manifest = create_backup(url, folder)
    if as_json:
        print_json({"dump": str(dump), **manifest.model_dump(mode="json")})
        return
    out.print(str(dump), markup=False)
    notes.print(
        f"{manifest.total_rows:,} rows, {manifest.file_bytes:,} bytes. Verify it with: loginpipe backup verify {dump}"
    )


@app.command()
def verify(
    dump: Dump,
    *,
    file_only: Annotated[
        bool, typer.Option("--file-only", help="Check the files only; do not restore the dump.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Verify a backup: restore it into a new database on the server of LOGINPIPE_DATABASE_URL and compare every table.

    The role needs CREATEDB. The checksum and the dump's table of contents are checked first. The new database is
    dropped at the end.

    Example: loginpipe backup verify /var/backups/loginpipe/logins-20261121T021500Z.dump
    """
    from loginpipe.backup.backups import require_usable, verify_backup

    if file_only:
        manifest = require_usable(dump)
    else:
        url = database_url(load_settings())
        with step("restoring into a temporary database"):
            manifest = verify_backup(url, dump)
    outcome = "the files are intact; not restored" if file_only else "restored and compared: the backup is intact"
    print_result(
        {"dump": str(dump), "restored": not file_only, **manifest.model_dump(mode="json")},
        f"{outcome}: {manifest.total_rows:,} rows of {manifest.taken_at:%Y-%m-%d %H:%M:%S} UTC",
        as_json=as_json,
    )


@app.command()
def restore(dump: Dump, *, as_json: Json = False) -> None:
    """Restore a backup into the empty database in LOGINPIPE_DATABASE_URL, with owners and grants; all of it or nothing.

    Connect as a superuser or as the owner of the tables. Stop the pipeline first. For what was stored, erased and
    opened since the backup, see docs/backups.md.

    Example: loginpipe backup restore /var/backups/loginpipe/logins-20261121T021500Z.dump
    """
    from loginpipe.backup.backups import restore_backup

    url = database_url(load_settings())
    with step("restoring"):
        manifest = restore_backup(url, dump)
    if as_json:
        print_json({"dump": str(dump), **manifest.model_dump(mode="json")})
        return
    out.print(
        f"restored {manifest.total_rows:,} rows of {manifest.taken_at:%Y-%m-%d %H:%M:%S} UTC, at revision "
        f"{manifest.revision}",
        markup=False,
    )
    notes.print("before you start the pipeline, run loginpipe migrate and loginpipe doctor; then see docs/backups.md")


@insights.command()
def rebuild(*, as_json: Json = False) -> None:
    """Compute duplicate_devices and duplicate_ips again from user_logins, day by day, with what is kept for them.

    Days that are only in the archive keep their rows. Logins that were deleted from the table in another way are no
    longer counted. The pipeline may run meanwhile. After an interruption the job refresh_insights computes the rest.

    Example: loginpipe insights rebuild
    """
    from loginpipe.postgres.insights import DUPLICATES, rebuild_duplicates

    days = dict.fromkeys(DUPLICATES, 0)
    with connect_to_warehouse(load_settings()) as connection, progress() as bar:
        for table in DUPLICATES:
            task = bar.add_task(table, total=None)
            for done, total in rebuild_duplicates(connection, table):
                bar.update(task, completed=done, total=total)
                days[table] = done
    print_result(days, "; ".join(f"{table}: {number:,} days" for table, number in days.items()), as_json=as_json)
