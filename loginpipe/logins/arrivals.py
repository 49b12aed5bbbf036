"""When the messages of a batch were sent: how many a minute, in steps that a plot has room for."""

import pandas as pd

_STEPS = ("1min", "2min", "5min", "15min", "30min", "1h", "2h", "6h", "12h", "1D")
_MOST = 24


def messages_per_minute(sent_at: "pd.Series[pd.Timestamp]") -> tuple[str, dict[str, float]]:
    """Count messages by the time that they were sent.

    Args:
        sent_at: datetime64[ms, UTC]; at least one.

    Returns:
        The step, as in ``5min``, and the beginning of each step (UTC) → messages a minute during it, steps without
        any among them; 24 steps at most where the messages are no more than 23 days apart.
    """
    for step in _STEPS:
        first, last = sent_at.min().floor(step), sent_at.max().floor(step)
        if (last - first) // pd.Timedelta(step) < _MOST:
            break
    steps = pd.date_range(first, last, freq=step)
    counts = sent_at.dt.floor(step).value_counts().reindex(steps, fill_value=0)
    minutes = pd.Timedelta(step) / pd.Timedelta(minutes=1)
    return step, {f"{begin:%d %b %H:%M}": float(count / minutes) for begin, count in counts.items()}
