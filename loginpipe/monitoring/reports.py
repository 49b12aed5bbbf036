"""What one round of checks found, and what of it is news for the checks ``freshness`` and ``no_dead_letters``.

Pure. What is news depends on the memory, which `monitoring_sensor` keeps from tick to tick as its cursor.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pydantic import BaseModel, ValidationError

from loginpipe.monitoring.alerts.state import State
from loginpipe.monitoring.freshness import Freshness
from loginpipe.monitoring.run_history import History
from loginpipe.postgres.batches import RecentBatches
from loginpipe.sqs.dead_letters import DeadLetterDepth
from loginpipe.sqs.depth import Depth

# `freshness` is reported this often where it does not change. An older report shows that nothing reports any more.
_REPEATED = timedelta(hours=1)


@dataclass(frozen=True)
class QueueSeen:
    """The depths of the queue and of its dead-letter queue: None where there is none."""

    depth: Depth
    dead_letters: DeadLetterDepth | None


@dataclass(frozen=True)
class Seen:
    """What was seen at one time.

    Attributes:
        queue: its depths, or the reason why it could not be asked.
        runs: the recent batches, or the reason why they could not be read.
        freshness: None where one of those two did not answer.
        history: how runs of the chain ended, by Dagster.
        jobs: the reason why the newest run of each other job failed; None where it succeeded.
        checks: whether each check that is worth an alert passed, as ``name of asset``; those never evaluated aside.
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
    """What is kept from tick to tick.

    Attributes:
        alerts: the alerts that last, and what each channel is still to be sent.
        waiting_since: as `Freshness.waiting_since`.
        fresh: what was reported last for ``freshness``; None before the first report.
        fresh_at: when that was.
        dead_letters: the message reported last for ``no_dead_letters``.
    """

    alerts: State = State()
    waiting_since: datetime | None = None
    fresh: bool | None = None
    fresh_at: datetime | None = None
    dead_letters: str | None = None


def read_memory(cursor: str | None) -> Memory:
    """Read a cursor; nothing is known where there is none, or one that a person has typed."""
    try:
        return Memory.model_validate_json(cursor) if cursor else Memory()
    except ValidationError:
        return Memory()


def evaluate_dead_letters(depth: DeadLetterDepth | str | None) -> DeadLetters:
    """Evaluate a dead-letter queue: it must exist, answer and hold no dead letters of ours.

    Args:
        depth: what it holds; None where there is none; or the reason why it could not be asked.
    """
    if isinstance(depth, str):
        return DeadLetters(False, depth)
    if depth is None:
        return DeadLetters(
            False,
            "The queue has no dead-letter queue: a message that fails every run is delivered again until SQS deletes "
            "it",
        )
    if depth.ours:
        return DeadLetters(False, f"{depth}; find the cause, then run `loginpipe dlq redrive`")
    return DeadLetters(True, str(depth) if depth.total else "Empty")


def news(seen: Seen, memory: Memory, now: datetime) -> tuple[Freshness | None, DeadLetters | None, Memory]:
    """Decide what to report for ``freshness`` and for ``no_dead_letters``: None for what is not news.

    ``freshness`` is news where it passes and did not before, or the other way round, and once an hour. Where queue or
    database did not answer it is not known, and stays as it was. Dead letters are news where the message changes.

    Args:
        seen: what was seen now.
        memory: from the last time.
        now: the time, UTC.

    Returns:
        The two reports, and the memory with them in it; its alerts stay as they are.
    """
    changes: dict[str, object] = {}
    fresh = seen.freshness
    if fresh is not None:
        changes["waiting_since"] = fresh.waiting_since
        # Quiet and working take turns all day: that is no news.
        known = memory.fresh_at is not None and now - memory.fresh_at < _REPEATED and memory.fresh == fresh.passed
        if known:
            fresh = None
        else:
            changes |= {"fresh": fresh.passed, "fresh_at": now}
    dead = evaluate_dead_letters(seen.queue if isinstance(seen.queue, str) else seen.queue.dead_letters)
    changes["dead_letters"] = dead.message
    return fresh, None if dead.message == memory.dead_letters else dead, memory.model_copy(update=changes)
