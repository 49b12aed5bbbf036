"""Draw plots that the UI shows inline: bars of counts as Markdown text, never of single logins.

The UI shows Markdown of less than 1,000 characters inline, and longer text behind a link. A picture would not fit.
"""

from collections.abc import Mapping
from itertools import islice

import dagster as dg

_MAX_INLINE = 999
_MAX_BARS = 24
_MAX_LABEL = 16
# Characters. A line of 44 fills the UI's value column in a window of 1400 pixels.
_MAX_BAR = 20


def bar_plot(title: str, counts: Mapping[str, float]) -> dg.MarkdownMetadataValue:
    """Draw counts, which are not negative, as horizontal bars in the given order. Draw only the first 24.

    The title should name the unit.
    """
    left_out = len(counts) - _MAX_BARS
    head = f"**{title}**{f' (and {left_out} more)' if left_out > 0 else ''}\n```text\n"
    room = (_MAX_INLINE - len(head) - len("```")) // max(1, min(len(counts), _MAX_BARS))
    return dg.MetadataValue.md(f"{head}{bars(counts, line_most=room - 1)}```")


def bars(counts: Mapping[str, float], *, line_most: int) -> str:
    """Return a line per count: name, bar in proportion to the largest count, count. `line_most` is at least 30."""
    shown = [(_plain(name), count, f"{count:,.6g}") for name, count in islice(counts.items(), _MAX_BARS)]
    label = max((len(name) for name, _, _ in shown), default=0)
    number = max((len(text) for _, _, text in shown), default=0)
    most = max((count for _, count, _ in shown), default=0) or 1
    room = min(_MAX_BAR, line_most - label - number - 2)
    return "".join(f"{name:>{label}} {_bar(count / most * room)} {text}\n" for name, count, text in shown)


def _bar(length: float) -> str:
    """Return a bar of a rounded number of characters. A small positive length is still visible."""
    return "█" * round(length) or ("▏" if length > 0 else "")


def _plain(name: str) -> str:
    """Return a name without line breaks and backquotes, which would end the text block. Senders choose some names."""
    name = "".join(character if character.isprintable() and character != "`" else "·" for character in name)
    return name if len(name) <= _MAX_LABEL else f"{name[: _MAX_LABEL - 1]}…"
