"""Count logins by delay, from sent to stored, in buckets, and read quantiles from the counts. Pure."""

from collections.abc import Sequence
from math import ceil, inf

DELAY_BOUNDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)
"""Upper bounds of the buckets, in seconds. Counts have one more entry, for longer delays than the last bound.

The tables hold counts by position, so a change of the bounds needs a migration that converts them.
"""


def delay_labels() -> tuple[str, ...]:
    """Return the label of each bucket for a plot, ``up to 1 s`` to ``over 1 h``."""
    return (*(f"up to {_span(bound)}" for bound in DELAY_BOUNDS), f"over {_span(DELAY_BOUNDS[-1])}")


def quantile(counts: Sequence[int], q: float) -> float:
    """Return the upper bound of the bucket that holds a quantile, in seconds; infinity above `DELAY_BOUNDS`.

    ``counts`` has one entry per bucket and is not cumulative; without logins the result is 0.0.
    """
    rank = max(ceil(q * sum(counts)), 1)
    below = 0
    for bound, count in zip((*DELAY_BOUNDS, inf), counts, strict=True):
        below += count
        if below >= rank:
            return float(bound)
    return 0.0


def _span(seconds: int) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
