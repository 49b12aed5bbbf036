"""Count when the messages of a run were sent: messages per minute, in steps that fit into a plot."""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime

_STEPS = {
    "1min": 1, "2min": 2, "5min": 5, "15min": 15, "30min": 30, "1h": 60, "2h": 120, "6h": 360, "12h": 720, "1D": 1440,
}  # fmt: skip
_MAX_SHOWN = 24


def messages_per_minute(minutes: Mapping[int, int]) -> tuple[str, dict[str, float]]:
    """Return the rate at which messages were sent, by time.

    Args:
        minutes: minute since 1970 → messages sent in it; at least one.

    Returns:
        The step, as in ``5min``, and the start of each step (UTC) → messages per minute in it, with empty steps. At
        most 24 steps if the messages are at most 23 days apart.
    """
    first, last = min(minutes), max(minutes)
    name, step = next(
        ((name, step) for name, step in _STEPS.items() if last // step - first // step < _MAX_SHOWN), ("1D", 1440)
    )
    counts: Counter[int] = Counter()
    for minute, messages in minutes.items():
        counts[minute // step] += messages
    return name, {
        f"{datetime.fromtimestamp(place * step * 60, UTC):%d %b %H:%M}": counts[place] / step
        for place in range(first // step, last // step + 1)
    }
