"""Evaluate whether the table is up to date. An empty queue is fresh at any age of the table; a stuck one is not.

Pure. Dagster's freshness policies know only the age of the last materialization, and cannot distinguish these cases.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from loginpipe.common.settings import Settings
from loginpipe.sqs.depth import IN_FLIGHT_LIMIT_REACHED, Depth

# Recording a batch may take as long as it lingered, and another batch may be right behind it.
_LINGERS = 3


@dataclass(frozen=True)
class Freshness:
    """The evaluated state of a queue.

    Attributes:
        state: ``quiet`` (no messages), ``working`` (messages are being processed) or ``stuck`` (they are not).
        message: the state as text.
        waiting_since: when messages were first seen, if every check since has seen some; None if there are none. The
            next check needs it.
    """

    state: Literal["quiet", "working", "stuck"]
    message: str
    waiting_since: datetime | None

    @property
    def passed(self) -> bool:
        """True if the queue is not stuck."""
        return self.state != "stuck"


def longest_wait(settings: Settings) -> timedelta:
    """Return how long messages may wait without a finished batch."""
    return timedelta(seconds=max(settings.max_delay_seconds, _LINGERS * settings.linger_seconds))


def evaluate(
    depth: Depth, *, last_finished: datetime | None, waiting_since: datetime | None, now: datetime, max_wait: timedelta
) -> Freshness:
    """Evaluate whether a queue is empty, being processed, or stuck.

    Args:
        depth: the queue's depth. Messages in flight count, because a hanging run hides its messages for ever.
        last_finished: when the newest batch finished; None if none did recently.
        waiting_since: the result of the last check.
        now: the time. All times have a time zone.
        max_wait: how long messages may wait without a finished batch.
    """
    ended = f"the newest batch finished at {_utc(last_finished)}" if last_finished else "no batch has finished recently"
    if not depth.visible + depth.in_flight:
        return Freshness("quiet", f"the queue is empty; {ended}", None)
    since = waiting_since or now
    if depth.at_in_flight_limit:
        return Freshness("stuck", f"{depth}; {IN_FLIGHT_LIMIT_REACHED}", since)
    if now - max(since, last_finished or since) > max_wait:
        return Freshness("stuck", f"{depth}; messages have been waiting since {_utc(since)}, and {ended}", since)
    return Freshness("working", f"{depth}; {ended}", since)


def _utc(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
