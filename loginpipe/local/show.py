"""How the demonstration's results look on a terminal."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from loginpipe.local.demo import DemoResult

_LONG = 20
# A token or an id is recognised by its beginning, and seven columns have to fit a terminal.
_SHOWN = 13


def show_demo(console: Console, result: DemoResult) -> None:
    """Print counts, reject reasons, masked rows, repeated devices and addresses, and what to do next."""
    _print(console, "messages", ("", ""), list(result.counts.items()))
    _print(console, "rejected, by reason", ("", ""), list(result.reasons.items()))
    for title, rows in result.tables.items():
        _print(console, title, rows.columns, rows.rows)
    console.print(
        f"\nThe run took {result.run_seconds:.1f} s. The services have been stopped and their data is gone.\n"
        "To keep them, with the Dagster UI at http://127.0.0.1:3000 :\n\n    make dev\n"
    )


def _print(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    table = Table(box=None, header_style="dim", show_header=any(columns), padding=(0, 0, 0, 2))
    for number, column in enumerate(columns):
        counts = any(isinstance(row[number], int) for row in rows)
        table.add_column(column, overflow="ellipsis", no_wrap=True, justify="right" if counts else "left")
    for row in rows:
        table.add_row(*map(_cell, row))
    console.print(f"\n[bold]{title}[/]")
    console.print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "[dim]NULL[/]"
    if isinstance(value, int):
        return f"{value:,}"
    text = str(value)
    return text if len(text) <= _LONG else f"{text[:_SHOWN]}…"
