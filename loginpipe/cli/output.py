"""What the commands have in common: how they are made, and how they print."""

import json
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console, JustifyMethod
from rich.progress import Progress
from rich.table import Table

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]

out = Console(highlight=False, soft_wrap=True)
notes = Console(stderr=True, highlight=False, soft_wrap=True)


def new_app(description: str, *, completion: bool = False) -> typer.Typer:
    """Return a group of commands. Its errors are printed by `main`, never with local variables.

    Args:
        description: what `--help` begins with.
        completion: whether it is the program itself, which installs the completion of a shell.
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
    """Return a table without lines.

    Args:
        columns: their titles.
        wraps: the column that wraps where the terminal is narrow.
        numbers: the columns that are aligned to the right.
    """
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
