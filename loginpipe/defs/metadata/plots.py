"""Plots that the UI shows inline: bars of counts, as text in Markdown. Never of single logins.

The UI unfolds Markdown of less than 1,000 characters, and hides longer behind a link: too few for a picture.
"""

from collections.abc import Mapping
from itertools import islice

import dagster as dg

_MAX_INLINE = 999
_MAX_BARS = 24
_MAX_LABEL = 16
# Characters. A line of 44 is as wide as the column of values is in the UI of a window of 1400 pixels.
_MAX_BAR = 20


def bar_plot(title: str, counts: Mapping[str, float]) -> dg.MarkdownMetadataValue:
    """Draw counts as bars, one below the other, in the order given.

    Args:
        title: of the plot, with the unit.
        counts: name → count, none below zero; the first 24 are drawn.
    """
    left_out = len(counts) - _MAX_BARS
    head = f"**{title}**{f' (and {left_out} more)' if left_out > 0 else ''}\n```text\n"
    room = (_MAX_INLINE - len(head) - len("```")) // max(1, min(len(counts), _MAX_BARS))
    return dg.MetadataValue.md(f"{head}{bars(counts, line_most=room - 1)}```")


def bars(counts: Mapping[str, float], *, line_most: int) -> str:
    """Return the bars, a line each: name, bar as long as its share of the largest, count.

    Args:
        counts: as for `bar_plot`.
        line_most: characters in a line, at least 30.
    """
    shown = [(_plain(name), count, f"{count:,.6g}") for name, count in islice(counts.items(), _MAX_BARS)]
    label = max((len(name) for name, _, _ in shown), default=0)
    number = max((len(text) for _, _, text in shown), default=0)
    most = max((count for _, count, _ in shown), default=0) or 1
    room = min(_MAX_BAR, line_most - label - number - 2)
    return "".join(f"{name:>{label}} {_bar(count / most * room)} {text}\n" for name, count, text in shown)


def _bar(length: float) -> str:
    """Draw so many characters, to the next whole one; what is more than nothing can be seen."""
    return "█" * round(length) or ("▏" if length > 0 else "")


def _plain(name: str) -> str:
    """Return a name that ends neither the line nor the block of text: senders choose some of them."""
    name = "".join(character if character.isprintable() and character != "`" else "·" for character in name)
    return name if len(name) <= _MAX_LABEL else f"{name[: _MAX_LABEL - 1]}…"
