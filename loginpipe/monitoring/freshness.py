"""Whether the table is up to date: an empty queue is fresh whatever the table's age; one that is not emptied is not.

Pure. Dagster's own freshness policies know the age of the last materialization alone, and cannot tell these two apart.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from loginpipe.common.settings import Settings
from loginpipe.sqs.depth import IN_FLIGHT_LIMIT_REACHED, Depth

# A batch may take as long to be recorded as it lingered, and another one may be just behind it.
_LINGERS = 3


@dataclass(frozen=True)
class Freshness:
    """What was found.

    Attributes:
        state: ``quiet``, no messages; ``working``, they are being processed; ``stuck``, they are not.
        message: the same as text.
        waiting_since: when messages were first seen, if every check since has found some; None where there are none.
            The next check needs it.
    """

    state: Literal["quiet", "working", "stuck"]
    message: str
    waiting_since: datetime | None

    @property
    def passed(self) -> bool:
        """Whether the queue is not stuck."""
        return self.state != "stuck"


def longest_wait(settings: Settings) -> timedelta:
    """Return how long messages may wait without a finished batch."""
    return timedelta(seconds=max(settings.max_delay_seconds, _LINGERS * settings.linger_seconds))


def evaluate(
    depth: Depth, *, last_finished: datetime | None, waiting_since: datetime | None, now: datetime, max_wait: timedelta
) -> Freshness:
    """Tell an empty queue from one that is being processed, and both from one that is stuck.

    Args:
        depth: what the queue holds. Messages in flight count: a run that hangs keeps its own hidden for ever.
        last_finished: when the newest batch was finished; None where none was recently.
        waiting_since: as the last check returned it.
        now: the time; all times are aware.
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
