"""How the last runs ended, and how long to wait after failures. Pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta

BACK_OFF_FIRST = timedelta(seconds=15)
MAX_BACK_OFF = timedelta(minutes=15)


@dataclass(frozen=True)
class History:
    """How the finished runs ended: failures since the last success, and when the newest of them ended (UTC).

    `reason` says why that one failed, where it was asked for.
    """

    failures_in_a_row: int = 0
    last_failure: datetime | None = None
    reason: str = ""


def back_off(failures_in_a_row: int) -> timedelta:
    """Return the pause after this many failures in a row: it doubles from 15 seconds to 15 minutes."""
    doublings = min(max(failures_in_a_row - 1, 0), 10)
    return min(BACK_OFF_FIRST * (1 << doublings), MAX_BACK_OFF)
