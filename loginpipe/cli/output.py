"""What the commands have in common: how they are made, their options, and how they print."""

import json
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console, JustifyMethod
from rich.progress import Progress
from rich.table import Table


def in_utc(time: datetime | None) -> datetime | None:
    """Add the time zone to the value of an option, which typer reads without one."""
    return time.replace(tzinfo=UTC) if time else None


Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Since = Annotated[
    datetime | None, typer.Option(help="Only messages sent at this time (UTC) or later.", callback=in_utc)
]
Until = Annotated[datetime | None, typer.Option(help="Only messages sent before this time (UTC).", callback=in_utc)]

out = Console(highlight=False, soft_wrap=True)
notes = Console(stderr=True, highlight=False, soft_wrap=True)


def new_app(description: str, *, completion: bool = False) -> typer.Typer:
    """Return a group of commands. Its errors are printed by `main`, never with local variables.

    `description` is what `--help` begins with. Only the program itself installs the completion of a shell.
    """
    return typer.Typer(
        help=description, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=completion
    )


@contextmanager
def step(what: str) -> Iterator[None]:
    """Show what is being done, and that it is done."""
    with notes.status(what):
        yield
    notes.print(f"[green]✓[/] {what}")


def new_table(columns: Iterable[str], *, wraps: str, numbers: Collection[str] = ()) -> Table:
    """Return a table without lines. One column wraps where the terminal is narrow; numbers are aligned to the right."""
    table = Table(box=None, header_style="dim", padding=(0, 0, 0, 2))
    for column in columns:
        justify: JustifyMethod = "right" if column in numbers else "left"
        table.add_column(column, no_wrap=column != wraps, overflow="fold", justify=justify)
    return table


def progress() -> Progress:
    """Return a progress bar that leaves nothing behind, and shows nothing where there is no terminal."""
    return Progress(console=notes, transient=True, disable=not notes.is_terminal)


def print_result(value: object, text: str, *, as_json: bool) -> None:
    """Print a result: as JSON for scripts, or as text."""
    if as_json:
        print_json(value)
    else:
        out.print(text, markup=False)


def print_json(value: object) -> None:
    """Print a value as one line of JSON; times and ids as text."""
    print(json.dumps(value, default=str))  # noqa: T201 - nothing may wrap or colour it


def printable(text: str) -> str:
    """Return a text without anything that a terminal would act upon: it may come from whoever sent a message."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
    encoding = sys.stdout.encoding or "ascii"
    return shown.encode(encoding, "backslashreplace").decode(encoding)
