"""Whether the table is up to date: a quiet queue is fresh whatever the table's age; one that is not emptied is not.

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
        state: ``quiet``, no messages; ``working``, they are being worked off; ``stuck``, they are not.
        says: the same in words.
        waiting_since: when messages were first seen, by looks that have found some ever since; None where there are
            none. The next look wants it.
    """

    state: Literal["quiet", "working", "stuck"]
    message: str
    waiting_since: datetime | None

    @property
    def passed(self) -> bool:
        """Whether that is well: it is not stuck."""
        return self.state != "stuck"


def longest_wait(settings: Settings) -> timedelta:
    """Return how long messages may be there without a batch being finished."""
    return timedelta(seconds=max(settings.max_delay_seconds, _LINGERS * settings.linger_seconds))


def evaluate(
    depth: Depth, *, last_finished: datetime | None, waiting_since: datetime | None, now: datetime, most: timedelta
) -> Freshness:
    """Tell a quiet queue from one that is worked off, and both from one that is stuck.

    Args:
        depth: what the queue holds. Messages in flight count: a run that hangs keeps its own hidden for ever.
        last_finished: when the newest batch was finished; None where none was lately.
        waiting_since: as the last look left it.
        now: the time; all times are aware.
        most: how long messages may be there without a batch being finished.
    """
    ended = (
        f"the newest batch was finished at {_utc(last_finished)}" if last_finished else "no batch was finished lately"
    )
    if not depth.visible + depth.in_flight:
        return Freshness("quiet", f"the queue is empty; {ended}", None)
    since = waiting_since or now
    if depth.at_in_flight_limit:
        return Freshness("stuck", f"{depth}; {IN_FLIGHT_LIMIT_REACHED}", since)
    if now - max(since, last_finished or since) > most:
        return Freshness("stuck", f"{depth}; there are messages since {_utc(since)}, and {ended}", since)
    return Freshness("working", f"{depth}; {ended}", since)


def _utc(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
