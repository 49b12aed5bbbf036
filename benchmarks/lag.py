"""Figures out of a time in which messages keep coming. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

# Above fifty a second they come in groups.
_GROUP_SECONDS = 0.02


class Sample(NamedTuple):
    """How many messages were stored at a moment: seconds of a monotonic clock."""

    at: float
    stored: int


@dataclass(frozen=True)
class Figure:
    """What was measured, and what it is to be at most; None where it has no target."""

    name: str
    target: float | None
    measured: float

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        return None if self.target is None else self.measured <= self.target


def schedule(a_second: int, seconds: float) -> list[tuple[float, int]]:
    """Return when to send how many messages: evenly, one by one, or every 20 ms where that is too often.

    Returns:
        Seconds since the first one, and a count of at least 1; in order.
    """
    groups: list[tuple[float, int]] = []
    total, sent = max(1, round(a_second * seconds)), 0
    step = max(_GROUP_SECONDS, 1 / a_second)
    while sent < total:
        offset = len(groups) * step
        # The small part makes up for what floating point leaves out.
        due = min(total, int((offset + step) * a_second + 1e-6))
        groups.append((offset, due - sent))
        sent = due
    return groups


def delays(sent: Sequence[float], samples: Sequence[Sample]) -> list[float]:
    """Return each message's seconds from sent to stored: to the first sample with as many stored as were sent by then.

    Args:
        sent: when each was sent, in order.
        samples: in order.

    Raises:
        ValueError: not all were stored at the last sample.
    """
    found: list[float] = []
    for sample in samples:
        found += (sample.at - at for at in sent[len(found) : sample.stored])
    if len(found) < len(sent):
        raise ValueError(f"{len(found):,} of {len(sent):,} messages were stored at the last sample")
    return found


def quantile(values: Sequence[float], share: float) -> float:
    """Return the least value that this share of all (0 to 1) do not exceed; there is one value at least."""
    return sorted(values)[max(0, ceil(share * len(values)) - 1)]


def cpu_us_a_message(cpu_seconds: float, idle_cpu_a_second: float, seconds: float, messages: int) -> float:
    """Return CPU microseconds a message, without what the same time takes where nothing arrives."""
    return (cpu_seconds - idle_cpu_a_second * seconds) / messages * 1e6


def events_an_hour(of_a_run: float, run_seconds: float, others: int, seconds: float) -> float:
    """Return Dagster's events an hour, of which each run brings some and time brings others."""
    return 3600 * (of_a_run / run_seconds + others / seconds)
