"""Plots that the UI shows inline: bars of counts, as SVG in Markdown. Never of single logins.

Written by hand, since each is stored with its materialization: twenty bars of a charting library are 25 kB, of these 5.
"""

from base64 import b64encode
from collections.abc import Mapping
from html import escape
from itertools import islice
from typing import Final

import dagster as dg

_BARS_MOST: Final = 24
_WIDTH: Final = 370
"""As wide as the column of values is in the UI of a window of 1400 pixels; what is wider is cut off."""
_LABEL_WIDTH: Final = 110
_LINE_HEIGHT: Final = 18


def bar_plot(title: str, counts: Mapping[str, float]) -> dg.MarkdownMetadataValue:
    """Draw counts as bars, one below the other, in the order given.

    Args:
        title: of the plot, with the unit.
        counts: name → count, none below zero; the first 24 are drawn.
    """
    return dg.MetadataValue.md(
        f"![{title}](data:image/svg+xml;base64,{b64encode(bars(title, counts).encode()).decode()})"
    )


def bars(title: str, counts: Mapping[str, float]) -> str:
    """Return the plot as SVG."""
    shown = dict(islice(counts.items(), _BARS_MOST))
    most = max(shown.values(), default=0) or 1
    lines = [f'<text x="0" y="14" font-weight="bold">{escape(title)}{_left_out(len(counts) - len(shown))}</text>']
    for place, (name, count) in enumerate(shown.items(), start=1):
        base = place * _LINE_HEIGHT + 14
        width = round((_WIDTH - _LABEL_WIDTH - 60) * count / most, 1)
        lines += [
            f'<text x="{_LABEL_WIDTH - 8}" y="{base}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{_LABEL_WIDTH}" y="{base - 11}" width="{width}" height="13" fill="#4f43dd"/>',
            f'<text x="{_LABEL_WIDTH + width + 6}" y="{base}">{count:,.6g}</text>',
        ]
    height = (len(shown) + 1) * _LINE_HEIGHT + 8
    # A grey that can be read on the UI's light and on its dark background.
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" font-family="sans-serif" '
        f'font-size="12" fill="#8b8fa3">{"".join(lines)}</svg>'
    )


def _left_out(number: int) -> str:
    return f" (and {number} more)" if number else ""
