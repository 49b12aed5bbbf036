"""Evaluate whether the table is up to date, and decide what ``freshness`` and ``no_dead_letters`` must report. Pure.

An empty queue is fresh at any age of the table; a stuck one is not. Dagster's freshness policies know only the age of
the last materialization, and cannot distinguish these cases. What to report depends on a memory, which
`monitoring_sensor` keeps as its cursor.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from pydantic import BaseModel, ValidationError

from loginpipe.common.settings import Settings
from loginpipe.monitoring.alert_state import State
from loginpipe.postgres.batches import RecentBatches
from loginpipe.sqs.client import IN_FLIGHT_LIMIT_REACHED, Depth
from loginpipe.sqs.dead_letters import DeadLetterDepth

# Recording a batch may take as long as it lingered, and another batch may be right behind it.
_LINGERS = 3


@dataclass(frozen=True)
class Freshness:
    """The state of a queue: no messages (``quiet``), messages that are processed (``working``) or not (``stuck``).

    ``waiting_since`` is when messages were first seen, if every check since has seen some; None if there are none. The
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
    """Evaluate whether a queue is empty, being processed, or stuck. All times have a time zone.

    Messages in flight count, because a hanging run hides its messages for ever. ``last_finished`` is when the newest
    batch finished, None if none did recently; ``waiting_since`` the result of the last check; ``max_wait`` as
    `longest_wait`.
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


# How often an unchanged `freshness` is reported. An older report shows that reporting has stopped.
_REPEATED = timedelta(hours=1)


@dataclass(frozen=True)
class QueueSeen:
    """The depths of the queue and of its dead-letter queue, if there is one."""

    depth: Depth
    dead_letters: DeadLetterDepth | None


@dataclass(frozen=True)
class Seen:
    """The result of one round of checks. A text is the reason why something could not be read.

    Attributes:
        runs: the recent batches.
        history: the results of the chain's runs in Dagster.
        checks: ``name of asset`` → True if passed, for each evaluated check that can cause an alert.
        jobs: why the newest run of each other job failed, or None if it succeeded.
    """

    queue: QueueSeen | str
    runs: RecentBatches | str
    freshness: Freshness | None
    history: History
    checks: Mapping[str, bool]
    jobs: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class DeadLetters:
    """Whether the dead-letter queue is as it should be, and a message about it."""

    passed: bool
    message: str


class Memory(BaseModel, frozen=True):
    """What is kept from tick to tick: the state of alerts, `Freshness.waiting_since`, and the last reports.

    These are the result of ``freshness`` and its time, None before the first report, and the message of
    ``no_dead_letters``.
    """

    alerts: State = State()
    waiting_since: datetime | None = None
    fresh: bool | None = None
    fresh_at: datetime | None = None
    dead_letters: str | None = None


def read_memory(cursor: str | None) -> Memory:
    """Parse a cursor. Return an empty memory if there is none, or if a person typed an invalid one."""
    try:
        return Memory.model_validate_json(cursor) if cursor else Memory()
    except ValidationError:
        return Memory()


def evaluate_dead_letters(depth: DeadLetterDepth | str | None) -> DeadLetters:
    """Evaluate a dead-letter queue: it must exist, answer, and hold no dead letters of ours.

    `depth` is None if there is no dead-letter queue, or the reason why its depth could not be read.
    """
    if isinstance(depth, str):
        return DeadLetters(False, depth)
    if depth is None:
        why = "a message that fails every run is delivered again until SQS deletes it"
        return DeadLetters(False, f"The queue has no dead-letter queue: {why}")
    if depth.ours:
        return DeadLetters(False, f"{depth}; find the cause, then run `loginpipe dlq redrive`")
    return DeadLetters(True, str(depth) if depth.total else "Empty")


def news(seen: Seen, memory: Memory, now: datetime) -> tuple[Freshness | None, DeadLetters | None, Memory]:
    """Decide what to report for ``freshness`` and ``no_dead_letters``. Return None for anything unchanged.

    ``freshness`` is reported if it changes between passed and failed, and once an hour. If queue or database did not
    answer, it is unknown and stays unchanged. Dead letters are reported if their message changes.

    Return the two reports, and the memory updated with them, but not with alerts. `now` is in UTC.
    """
    changes: dict[str, object] = {}
    fresh = seen.freshness
    if fresh is not None:
        changes["waiting_since"] = fresh.waiting_since
        # Quiet and working alternate all day and need no report.
        if memory.fresh_at is not None and now - memory.fresh_at < _REPEATED and memory.fresh == fresh.passed:
            fresh = None
        else:
            changes |= {"fresh": fresh.passed, "fresh_at": now}
    dead = evaluate_dead_letters(seen.queue if isinstance(seen.queue, str) else seen.queue.dead_letters)
    changes["dead_letters"] = dead.message
    return fresh, None if dead.message == memory.dead_letters else dead, memory.model_copy(update=changes)
