"""What is worth an alert, judged by what was seen. Pure: counts, times and names in, conditions in words out.

A condition whose source does not answer is not known: it neither begins nor ends by that.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from loginpipe.monitoring.alerts.kinds import CHECK
from loginpipe.monitoring.anomalies import DELAYED_MOST, delayed
from loginpipe.monitoring.freshness import Freshness
from loginpipe.monitoring.run_history import History
from loginpipe.postgres.batches import RecentBatches
from loginpipe.sqs.depth import Depth

# The run after one that failed finds out whether its cause has passed, as most have.
_FAILURES_LEAST = 2
# Of fewer, a share says little.
_MESSAGES_LEAST = 20


@dataclass(frozen=True)
class QueueSeen:
    """What the queue said, and the dead-letter queue: None where there is none."""

    depth: Depth
    dead_letters: Depth | None


@dataclass(frozen=True)
class Seen:
    """What one look has seen.

    Attributes:
        queue: or why it could not be asked, in words.
        runs: what batches came to of late, or why that could not be read.
        freshness: None where one of those two did not answer.
        history: how runs ended, by Dagster.
        checks: whether each check that is worth an alert passed, as ``name of asset``; those never looked at aside.
    """

    queue: QueueSeen | str
    runs: RecentBatches | str
    freshness: Freshness | None
    history: History
    checks: Mapping[str, bool]


@dataclass(frozen=True)
class Limits:
    """What the settings say: the share of rejects, and how many seconds a login may take."""

    reject_rate: float
    delay_seconds: int


def conditions(seen: Seen, limits: Limits) -> dict[str, str | None]:
    """Return each condition that is known: what there is to say where it holds, None where it does not."""
    return dict(
        [
            *_of_sources(seen),
            *_of_queue(seen),
            *_of_runs(seen, limits),
            *((f"{CHECK}{name}", None if passed else "see Dagster") for name, passed in seen.checks.items()),
        ]
    )


def _of_sources(seen: Seen) -> Iterator[tuple[str, str | None]]:
    yield "queue-out-of-reach", seen.queue if isinstance(seen.queue, str) else None
    yield "database-out-of-reach", seen.runs if isinstance(seen.runs, str) else None
    failures = seen.history.failures_in_a_row
    yield "runs-failing", f"{failures} in a row so far" if failures >= _FAILURES_LEAST else None


def _of_queue(seen: Seen) -> Iterator[tuple[str, str | None]]:
    if isinstance(seen.queue, str):
        return
    depth, dead = seen.queue.depth, seen.queue.dead_letters
    yield "in-flight-stall", str(depth) if depth.stalled else None
    yield "dead-letters", str(dead) if dead is not None and dead.total else None
    if seen.freshness is not None:
        # A stall has an alert of its own.
        yield "stuck", seen.freshness.says if seen.freshness.state == "stuck" and not depth.stalled else None


def _of_runs(seen: Seen, limits: Limits) -> Iterator[tuple[str, str | None]]:
    if isinstance(seen.runs, str):
        return
    received, rejected = seen.runs.received, seen.runs.rejected
    too_many = received >= _MESSAGES_LEAST and rejected > limits.reject_rate * received
    yield (
        "reject-rate",
        f"{rejected:,} of {received:,} messages within an hour; the limit is {limits.reject_rate:.2%}"
        if too_many
        else None,
    )
    stored, late = sum(seen.runs.delays), delayed(seen.runs.delays, limits.delay_seconds)
    too_late = stored >= _MESSAGES_LEAST and late > DELAYED_MOST * stored
    yield (
        "delay",
        f"{late:,} of {stored:,} logins within 15 minutes took longer than {limits.delay_seconds:,} s"
        if too_late
        else None,
    )
