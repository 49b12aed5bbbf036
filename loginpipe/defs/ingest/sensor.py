"""Define the sensor on queue depth: a thin shell around `decide`, which is pure and independent of Dagster."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from loginpipe.common.settings import Settings
from loginpipe.defs.ingest.assets import STEP
from loginpipe.defs.ingest.job import INGEST_JOB, QUEUE_TAG, of_the_chain_alone
from loginpipe.defs.resources import BATCHES_HELD, SqsResource
from loginpipe.monitoring.reports import History, back_off
from loginpipe.sqs.client import IN_FLIGHT_LIMIT_REACHED, Depth

# The minimum interval of Dagster's sensor loop. Reading the queue's depth costs one cheap call.
TICK_SECONDS = 5
# The part of SQS's in-flight limit of 120,000 messages that runs may use. The counts are approximate, and at the limit
# long polls return nothing, without an error.
_IN_FLIGHT_FOR_RUNS = 100_000
# Full batches that must wait, for each active run, before one more run starts: a start takes seconds.
DEEP_BATCHES = 5
# A run gets a successor this long before its time is over: a tick, a dequeue and a start take ten seconds.
SUCCESSOR_SECONDS = 20
# Run config of the sensor's runs. They wait a minute for more messages, because a new run takes seconds to start.
WAITING_IDLE: dict[str, Any] = {"ops": {STEP: {"config": {"idle_seconds": 60}}}}
# Number of finished runs to read: enough failures in a row for the longest back-off.
_HISTORY = 12

ACTIVE = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
"""Statuses of runs that hold messages or will: runs in the run queue or being cancelled count too."""

ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]


@dataclass(frozen=True)
class Decision:
    """How many runs to start now, and the reason for the operator."""

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
    """Decide how many runs to start: one if messages wait, more if many wait, and none too soon after failures.

    A run that is about to reach ``run_seconds`` gets a successor, and does not count for ``max_runs``. ``active`` has
    the age of each active run on this queue, or None if it is not started; see `ACTIVE`. ``now`` is in UTC.
    """
    seen = f"queue {queue!r}: {depth}"
    continuing = sum(age is None or age.total_seconds() < run_seconds - SUCCESSOR_SECONDS for age in active)
    # A run still active at that age has had messages within the last minute; otherwise it would have ended itself.
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
    # A single run tests whether the cause of the failures is gone.
    limit = 1 if history.failures_in_a_row else min(max_runs, most_runs(batch_messages))
    wanted = min(1 + depth.visible // (DEEP_BATCHES * batch_messages), limit)
    if wanted <= continuing:
        return Decision(0, f"{seen}; {continuing} of {limit} runs active; no new run needed")
    # Runs that are about to end still hold messages, so their successors start one at a time.
    starting = min(wanted - continuing, max(most_runs(batch_messages) - len(active), int(continuing == 0)))
    if starting <= 0:
        return Decision(0, f"{seen}; {len(active)} runs active, some about to end; new runs start when they have ended")
    return Decision(starting, f"{seen}; starting {starting} runs, {len(active)} active")


def most_runs(batch_messages: int) -> int:
    """Return how many runs (at least one) can hold batches of this size within the queue's in-flight limit."""
    return max(1, _IN_FLIGHT_FOR_RUNS // (BATCHES_HELD * batch_messages))


def history_of(records: Sequence[dg.RunRecord]) -> History:
    """Count the failures since the last success in ended runs, in any order. Failed runs that overlapped count once."""
    # By end: a newer run may have ended long before an older one.
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
    """Return the last runs of the chain on a queue that succeeded or failed, however they were started.

    Runs with further assets are excluded, because one of those may have failed. Runs on other queues are excluded,
    because several code locations can share one Dagster.
    """
    ended = dg.RunsFilter(tags={QUEUE_TAG: queue}, statuses=ENDED)
    records = instance.get_run_records(ended, limit=_HISTORY)
    return [record for record in records if of_the_chain_alone(record.dagster_run)]


def ended_at(record: dg.RunRecord) -> datetime:
    """Return when a run ended. For a run that never started, this is the time of its last update."""
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
    """Start runs as messages arrive."""
    active, now = dg.RunsFilter(tags={QUEUE_TAG: sqs.name}, statuses=ACTIVE), datetime.now(UTC)
    depth, starts = sqs.depth(), [record.start_time for record in context.instance.get_run_records(active)]
    decision = decide(
        depth,
        queue=sqs.name,
        active=[None if start is None else now - datetime.fromtimestamp(start, UTC) for start in starts],
        history=history_of(ended_runs(context.instance, sqs.name)),
        now=now,
        batch_messages=sqs.batch_messages,
        run_seconds=settings.run_seconds,
        max_runs=settings.max_runs,
    )
    # Dagster stores a skip reason with the tick. A log line would create a file at every tick, every five seconds.
    # Requests have no run key: Dagster would never repeat the key of a failed run.
    requests = [dg.RunRequest(run_config=WAITING_IDLE) for _ in range(decision.runs)]
    return dg.SensorResult(run_requests=requests, skip_reason=None if requests else decision.reason)
