"""The sensor on queue depth. `decide` is pure and knows nothing of Dagster; the sensor is a thin shell around it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from loginpipe.common.settings import Settings
from loginpipe.defs.ingest.assets import STEP
from loginpipe.defs.ingest.job import INGEST_JOB, QUEUE_TAG, of_the_chain_alone
from loginpipe.defs.resources import SqsResource
from loginpipe.defs.resources.sqs import BATCHES_HELD
from loginpipe.monitoring.run_history import History, back_off
from loginpipe.sqs.depth import IN_FLIGHT_LIMIT_REACHED, Depth

TICK_SECONDS = 5
"""The floor of Dagster's sensor loop: asking a queue for its depth costs one cheap call."""

IN_FLIGHT_FOR_RUNS = 100_000
"""So many of the 120,000 messages that SQS lets be in flight are for the runs: the counts are approximate, and at the
limit a long poll is silently empty."""

DEEP_BATCHES = 5
"""So many full batches waiting, for each run that is active, are worth one more: a run takes seconds to start."""

SUCCESSOR_SECONDS = 20
"""So long before its time is up a run gets a successor: a tick, a dequeue and a start take ten."""

WAITING_IDLE: dict[str, Any] = {"ops": {STEP: {"config": {"idle_seconds": 60}}}}
"""Run config of the sensor's runs: they wait for more messages for a minute, since a new run takes seconds to start."""

ACTIVE = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
"""A run that waits in the run queue or is being cancelled has, or will have, messages of its own."""

ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]

# Finished runs that are read: as many failures in a row reach the longest back-off.
_HISTORY = 12


@dataclass(frozen=True)
class Decision:
    """How many runs to start now, and why, as text for an operator."""

    runs: int
    reason: str


def decide(
    depth: Depth,
    *,
    queue: str,
    active: Sequence[timedelta | None],
    history: History,
    now: datetime,
    batch_messages: int,
    run_seconds: float,
    max_runs: int,
) -> Decision:
    """Decide how many runs to start: one where messages wait, more where many do, none too soon after failures.

    A run lasts ``run_seconds`` while messages come, so one that is about to reach that gets a successor.

    Args:
        depth: the queue's depth.
        queue: its name, for the reason.
        active: how long ago each run on this queue started that is queued, starting, started or being cancelled; None
            where it has not started yet.
        history: how earlier runs ended.
        now: the time, UTC.
        batch_messages: most messages in one batch.
        run_seconds: how long a run lasts at most.
        max_runs: most runs that are active at once, those aside that are about to end.
    """
    seen = f"queue {queue!r}: {depth}"
    continuing = sum(age is None or age.total_seconds() < run_seconds - SUCCESSOR_SECONDS for age in active)
    # A run that is still active then has had messages within the last minute: it ends by itself otherwise.
    follows = bool(active) and not continuing
    if depth.visible == 0 and not follows:
        return Decision(0, f"{seen}; nothing to receive")
    if depth.at_in_flight_limit:
        return Decision(0, f"{seen}; {IN_FLIGHT_LIMIT_REACHED}")
    if history.last_failure is not None:
        wait = back_off(history.failures_in_a_row)
        if now < history.last_failure + wait:
            next_try = (history.last_failure + wait).strftime("%H:%M:%S")
            return Decision(
                0,
                f"{seen}; backing off after {history.failures_in_a_row} failed runs in a row, next try at {next_try} "
                "UTC: see the newest run for the cause",
            )
    # One run at a time finds out whether the cause of the failures is gone.
    limit = 1 if history.failures_in_a_row else min(max_runs, most_runs(batch_messages))
    wanted = min(1 + depth.visible // (DEEP_BATCHES * batch_messages), limit)
    if wanted <= continuing:
        return Decision(0, f"{seen}; {continuing} of {limit} runs active; no new run needed")
    # Runs that are about to end still hold messages: their successors come one by one.
    starting = min(wanted - continuing, max(most_runs(batch_messages) - len(active), int(continuing == 0)))
    if starting <= 0:
        return Decision(0, f"{seen}; {len(active)} runs active, some about to end; new runs start when they have ended")
    return Decision(starting, f"{seen}; starting {starting} runs, {len(active)} active")


def most_runs(batch_messages: int) -> int:
    """Return how many runs together hold no more messages than a queue lets be in flight, at least one.

    Args:
        batch_messages: most messages in one batch.
    """
    return max(1, IN_FLIGHT_FOR_RUNS // (BATCHES_HELD * batch_messages))


def history_of(records: Sequence[dg.RunRecord]) -> History:
    """Count the failures since the last success; runs that overlapped and failed count once.

    Args:
        records: runs that ended in success or failure, in any order.
    """
    # By their ends: a newer run may have succeeded, or failed, long before an older one failed.
    latest_first = sorted(records, key=ended_at, reverse=True)
    failures, earliest_start = 0, None
    for record in latest_first:
        if record.dagster_run.status != dg.DagsterRunStatus.FAILURE:
            break
        ended = ended_at(record)
        if earliest_start is None or ended < earliest_start:
            failures += 1
        started = datetime.fromtimestamp(record.start_time, UTC) if record.start_time is not None else ended
        earliest_start = min(started, earliest_start or started)
    return History(failures, ended_at(latest_first[0])) if failures else History()


def ended_runs(instance: dg.DagsterInstance, queue: str) -> list[dg.RunRecord]:
    """Return the last runs of the chain that succeeded or failed on a queue, whoever started them.

    Runs on further assets are left out: it may be one of these that failed. So are runs on other queues: two code
    locations in one Dagster know nothing of each other.
    """
    ended = dg.RunsFilter(tags={QUEUE_TAG: queue}, statuses=ENDED)
    records = instance.get_run_records(ended, limit=_HISTORY)
    return [record for record in records if of_the_chain_alone(record.dagster_run)]


def ended_at(record: dg.RunRecord) -> datetime:
    """Return when a run ended; of one that never started, when that was recorded."""
    return record.update_timestamp if record.end_time is None else datetime.fromtimestamp(record.end_time, UTC)


@dg.sensor(
    job_name=INGEST_JOB,
    minimum_interval_seconds=TICK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Reads the depth of the login queue and starts as many runs as the backlog needs, up to LOGINPIPE_MAX_RUNS. It "
        "receives no message. After failed runs it waits before it starts another one."
    ),
)
def queue_depth_sensor(
    context: dg.SensorEvaluationContext, sqs: SqsResource, settings: dg.ResourceParam[Settings]
) -> dg.SensorResult:
    """Start runs as messages arrive.

    Raises:
        QueueError: the queue cannot be asked for its depth.
    """
    active = dg.RunsFilter(tags={QUEUE_TAG: sqs.name}, statuses=ACTIVE)
    now = datetime.now(UTC)
    decision = decide(
        sqs.depth(),
        queue=sqs.name,
        active=[_age(record, now) for record in context.instance.get_run_records(active)],
        history=history_of(ended_runs(context.instance, sqs.name)),
        now=now,
        batch_messages=sqs.batch_messages,
        run_seconds=settings.run_seconds,
        max_runs=settings.max_runs,
    )
    # A reason to skip is kept with the tick; a log line would make a file of each tick, every five seconds.
    # No run key: one that failed would never be asked for again.
    requests = [dg.RunRequest(run_config=WAITING_IDLE) for _ in range(decision.runs)]
    return dg.SensorResult(run_requests=requests, skip_reason=None if requests else decision.reason)


def _age(record: dg.RunRecord, now: datetime) -> timedelta | None:
    return None if record.start_time is None else now - datetime.fromtimestamp(record.start_time, UTC)
