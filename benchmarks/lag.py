"""Compute figures for a period with a steady stream of messages. Pure functions."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

# Above fifty per second, messages are sent in groups.
_GROUP_SECONDS = 0.02


class Sample(NamedTuple):
    """The number of stored messages at a moment, in seconds of a monotonic clock."""

    at: float
    stored: int


@dataclass(frozen=True)
class Figure:
    """A measured figure and its maximum, or None if it has no target."""

    name: str
    target: float | None
    measured: float

    @property
    def met(self) -> bool | None:
        """Return True if the target is met; None if there is none."""
        return None if self.target is None else self.measured <= self.target


def schedule(a_second: int, seconds: float) -> list[tuple[float, int]]:
    """Return when to send how many messages: evenly, one by one, or in groups every 20 ms if the rate is higher.

    Returns:
        Seconds since the first one, and a count of at least 1, in order.
    """
    groups: list[tuple[float, int]] = []
    total, sent = max(1, round(a_second * seconds)), 0
    step = max(_GROUP_SECONDS, 1 / a_second)
    while sent < total:
        offset = len(groups) * step
        # The small constant compensates for rounding of floating point numbers.
        due = min(total, int((offset + step) * a_second + 1e-6))
        groups.append((offset, due - sent))
        sent = due
    return groups


def delays(sent: Sequence[float], samples: Sequence[Sample]) -> list[float]:
    """Return each message's seconds from sent to stored: the first sample that counts as many as were sent by then.

    Args:
        sent: when each message was sent, in order.
        samples: in order.

    Raises:
        ValueError: not all messages were stored at the last sample.
    """
    found: list[float] = []
    for sample in samples:
        found += (sample.at - at for at in sent[len(found) : sample.stored])
    if len(found) < len(sent):
        raise ValueError(f"{len(found):,} of {len(sent):,} messages were stored at the last sample")
    return found


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that this share of the values (0 to 1) does not exceed. There is at least one value."""
    return sorted(values)[max(0, ceil(share * len(values)) - 1)]


def cpu_us_a_message(cpu_seconds: float, idle_cpu_a_second: float, seconds: float, messages: int) -> float:
    """Return CPU microseconds per message, without the CPU that the same time needs when no message arrives."""
    return (cpu_seconds - idle_cpu_a_second * seconds) / messages * 1e6


def events_an_hour(of_a_run: float, run_seconds: float, others: int, seconds: float) -> float:
    """Return Dagster's events per hour: a number per run, plus a number per time."""
    return 3600 * (of_a_run / run_seconds + others / seconds)
