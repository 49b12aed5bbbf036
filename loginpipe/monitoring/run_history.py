"""Represent the results of the last runs, and compute the pause after failures. Pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta

BACK_OFF_FIRST = timedelta(seconds=15)
MAX_BACK_OFF = timedelta(minutes=15)


@dataclass(frozen=True)
class History:
    """The results of finished runs: failures since the last success, and when the newest of them ended (UTC).

    `reason` is why that one failed, if it was looked up.
    """

    failures_in_a_row: int = 0
    last_failure: datetime | None = None
    reason: str = ""


def back_off(failures_in_a_row: int) -> timedelta:
    """Return the pause after this many failures in a row, which doubles from 15 seconds to at most 15 minutes."""
    doublings = min(max(failures_in_a_row - 1, 0), 10)
    return min(BACK_OFF_FIRST * (1 << doublings), MAX_BACK_OFF)
