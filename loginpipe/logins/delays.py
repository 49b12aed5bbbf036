"""The delay of a login, from sent to stored: the buckets it is counted in, and what their counts say. Pure."""

from collections.abc import Sequence
from math import ceil, inf

DELAY_BOUNDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)
"""Upper bounds of the buckets, in seconds. Counts have one entry more: what took longer than the last of them.

The tables hold counts by position: changing the bounds takes a migration that says what becomes of those.
"""


def delay_labels() -> tuple[str, ...]:
    """Return what to call each bucket in a plot, ``up to 1 s`` to ``over 1 h``."""
    return (*(f"up to {_span(bound)}" for bound in DELAY_BOUNDS), f"over {_span(DELAY_BOUNDS[-1])}")


def quantile(counts: Sequence[int], q: float) -> float:
    """Return an upper bound of a quantile, in seconds: the bound of the bucket that it lies in.

    Args:
        counts: one a bucket, not cumulative.
        q: 0.95 for the delay that 95 % of the logins stay within.

    Returns:
        One of `DELAY_BOUNDS`; infinity where it lies above them, 0.0 where nothing was counted.
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
