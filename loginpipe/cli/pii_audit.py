"""The commands for the access log: for auditors."""

from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loginpipe.cli.custody import printable
from loginpipe.cli.output import Json, new_app, notes, out, print_json, progress
from loginpipe.cli.warehouse import connect_to_warehouse
from loginpipe.common.errors import AuditError

if TYPE_CHECKING:
    from loginpipe.custody.audit import Entry

app = new_app("The record of who asked for what, who approved it, and what was released, refused and erased.")

_HEADER = ("entry", "at (UTC)", "actor", "action", "request", "subjects", "ticket", "purpose or detail")
_FAULTS_SHOWN = 5


@app.command("list")
def list_(
    *,
    actor: Annotated[str | None, typer.Option(help="Only of this role.")] = None,
    token: Annotated[str | None, typer.Option(help="Only about this token or message id.")] = None,
    since: Annotated[datetime | None, typer.Option(help="Written at this time (UTC) or later.")] = None,
    most: Annotated[int, typer.Option(help="Show at most this many.", min=1)] = 50,
    as_json: Json = False,
) -> None:
    """List entries of the access log, the newest first.

    Example: loginpipe pii audit list --actor custodian_1 --since 2026-11-01
    """
    from loginpipe.custody.audit import EntryFilter, find_entries

    wanted = EntryFilter(actor, token, since.replace(tzinfo=UTC) if since else None, most)
    with closing(connect_to_warehouse()) as connection:
        entries = find_entries(connection, wanted)
    if as_json:
        print_json([_json(entry) for entry in entries])
        return
    # No table: one that is cut to the width of a terminal shows neither an id nor a purpose as a whole.
    lines = [_HEADER, *(_cells(entry) for entry in entries)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADER))]
    for line in lines:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    if len(entries) == most:
        notes.print(f"these are the newest {most}: --most shows more")


@app.command()
def verify(
    *,
    anchor: Annotated[str | None, typer.Option(metavar="SEQ:HASH", help="The head of an earlier verification.")] = None,
    anchor_file: Annotated[
        Path | None, typer.Option(help="A file of such anchors, one a line.", dir_okay=False)
    ] = None,
    write_anchor: Annotated[
        Path | None, typer.Option(help="Add the head to this file, if all is well.", dir_okay=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Recompute the hash of every entry of the access log, and print the head: an anchor, to be kept elsewhere.

    An entry that was changed or removed breaks the chain. A tail that was cut off, or a past that was written anew,
    shows against an anchor only. Exits with 1 if the log is not intact.

    Example: loginpipe pii audit verify --anchor-file anchors.txt --write-anchor anchors.txt
    """
    from loginpipe.custody.audit import add_anchor, newest_entry, parse_anchor, read_anchors, verify_log

    anchors = [*([parse_anchor(anchor)] if anchor else []), *(read_anchors(anchor_file) if anchor_file else [])]
    with closing(connect_to_warehouse()) as connection, progress() as bar:
        task = bar.add_task("verifying", total=newest_entry(connection))
        found = verify_log(connection, anchors, lambda seq: bar.update(task, completed=seq))
    if as_json:
        print_json({"intact": not found.faults, "head": found.head, "anchors": len(anchors), "faults": found.faults})
        raise typer.Exit(1 if found.faults else 0)
    if found.faults:
        more = len(found.faults) - _FAULTS_SHOWN
        faults = "; ".join(found.faults[:_FAULTS_SHOWN]) + (f"; and {more} more" if more > 0 else "")
        raise AuditError(f"the access log is not intact: {faults}; see docs/security.md")
    if write_anchor:
        add_anchor(write_anchor, found.head)
    out.print(str(found.head))
    against = (
        f", {len(anchors)} anchors in it" if anchors else "; without an anchor a tail that was cut off does not show"
    )
    notes.print(
        f"{found.head.seq:,} entries are intact{against}. Keep the line above where no owner of the vault writes"
    )


def _cells(entry: "Entry") -> tuple[str, ...]:
    subjects = "" if entry.subjects is None else str(len(entry.subjects))
    said = "; ".join(filter(None, (entry.purpose, entry.detail)))
    named = (entry.actor, entry.action, entry.request_id or "", subjects, entry.ticket or "", said)
    return (str(entry.seq), f"{entry.at:%Y-%m-%d %H:%M:%S}", *map(printable, named))


def _json(entry: "Entry") -> dict[str, Any]:
    return {**asdict(entry), "previous_hash": entry.previous_hash.hex(), "hash": entry.hash.hex()}
