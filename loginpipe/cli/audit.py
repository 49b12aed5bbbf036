"""The commands for the access log."""

from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loginpipe.cli.output import Json, in_utc, new_app, notes, out, print_json, printable, progress
from loginpipe.cli.warehouse import connect_to_warehouse
from loginpipe.common.errors import AuditError
from loginpipe.common.settings import load_settings

if TYPE_CHECKING:
    from loginpipe.custody.audit import Entry

app = new_app("The access log: who requested, approved, recovered and erased which values.")

_HEADER = ("entry", "at (UTC)", "actor", "action", "request", "subjects", "ticket", "purpose or detail")
_PROBLEMS_SHOWN = 5


@app.command("list")
def list_(
    *,
    actor: Annotated[str | None, typer.Option(help="Only entries of this role.")] = None,
    token: Annotated[str | None, typer.Option(help="Only entries about this token or message id.")] = None,
    since: Annotated[
        datetime | None, typer.Option(help="Only entries written at this time (UTC) or later.", callback=in_utc)
    ] = None,
    limit: Annotated[int, typer.Option(help="Show at most this many.", min=1)] = 50,
    as_json: Json = False,
) -> None:
    """List the entries of the access log, newest first.

    Example: loginpipe pii audit list --actor custodian_1 --since 2026-11-01
    """
    from loginpipe.custody.audit import EntryFilter, find_entries

    with connect_to_warehouse(load_settings()) as connection:
        entries = find_entries(connection, EntryFilter(actor, token, since, limit))
    if as_json:
        print_json([{**asdict(e), "previous_hash": e.previous_hash.hex(), "hash": e.hash.hex()} for e in entries])
        return
    # No table: one that is cut to the width of a terminal shows neither an id nor a purpose as a whole.
    lines = [_HEADER, *(_cells(entry) for entry in entries)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADER))]
    for line in lines:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    if len(entries) == limit:
        notes.print(f"only the newest {limit} are shown: use --limit to see more")


@app.command()
def verify(
    *,
    anchor: Annotated[
        str | None, typer.Option(metavar="SEQ:HASH", help="An anchor from an earlier verification.")
    ] = None,
    anchor_file: Annotated[Path | None, typer.Option(help="A file with anchors, one per line.", dir_okay=False)] = None,
    write_anchor: Annotated[
        Path | None, typer.Option(help="Add the new anchor to this file if the log is intact.", dir_okay=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Check the hash chain of the access log, and print an anchor: number and hash of the newest entry.

    A changed or removed entry breaks the chain. If the newest entries were cut off, or the whole log was rewritten,
    only an earlier anchor shows it: keep anchors where the owner of the vault cannot write. Exits with 1 if the log is
    not intact.

    Example: loginpipe pii audit verify --anchor-file anchors.txt --write-anchor anchors.txt
    """
    from loginpipe.custody.audit import add_anchor, newest_entry, parse_anchor, read_anchors, verify_log

    anchors = [*([parse_anchor(anchor)] if anchor else []), *(read_anchors(anchor_file) if anchor_file else [])]
    with connect_to_warehouse(load_settings()) as connection, progress() as bar:
        task = bar.add_task("verifying", total=newest_entry(connection))
        found = verify_log(connection, anchors, lambda seq: bar.update(task, completed=seq))
    if as_json:
        print_json(
            {"intact": not found.problems, "head": found.head, "anchors": len(anchors), "problems": found.problems}
        )
        raise typer.Exit(1 if found.problems else 0)
    if found.problems:
        more = len(found.problems) - _PROBLEMS_SHOWN
        problems = "; ".join(found.problems[:_PROBLEMS_SHOWN]) + (f"; and {more} more" if more > 0 else "")
        raise AuditError(f"the access log is not intact: {problems}; see docs/security.md")
    if write_anchor:
        add_anchor(write_anchor, found.head)
    out.print(str(found.head))
    against = (
        f" and match {len(anchors)} anchors"
        if anchors
        else "; without an anchor, entries cut off at the end do not show"
    )
    notes.print(
        f"{found.head.seq:,} entries are intact{against}. Keep the line above where the owner of the vault cannot write"
    )


def _cells(entry: "Entry") -> tuple[str, ...]:
    subjects = "" if entry.subjects is None else str(len(entry.subjects))
    said = "; ".join(filter(None, (entry.purpose, entry.detail)))
    named = (entry.actor, entry.action, entry.request_id or "", subjects, entry.ticket or "", said)
    return (str(entry.seq), f"{entry.at:%Y-%m-%d %H:%M:%S}", *map(printable, named))
