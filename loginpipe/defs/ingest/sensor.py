"""The sensor on queue depth. `decide` is pure and knows nothing of Dagster; the sensor is a thin shell around it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil

import dagster as dg

from loginpipe.common.settings import Settings
from loginpipe.defs.ingest.job import INGEST_JOB
from loginpipe.defs.resources import SqsResource
from loginpipe.monitoring.run_history import History, back_off
from loginpipe.sqs.depth import STALL, Depth

TICK_SECONDS = 5
"""The floor of Dagster's sensor loop: asking a queue for its depth costs one cheap call."""

# A run that waits in the queue or is being cancelled has, or will have, messages of its own.
_GOING = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
# Finished runs looked at: as many failures in a row reach the longest back-off.
_HISTORY = 12


@dataclass(frozen=True)
class Decision:
    """How many runs to start now, and why: what the sensor saw, in words for an operator."""

    runs: int
    reason: str


def decide(
    depth: Depth, *, queue: str, going: int, history: History, now: datetime, batch_messages: int, max_runs: int
) -> Decision:
    """Decide how many runs to start: enough for what is waiting, up to the limit, and none too soon after failures.

    Args:
        depth: what the queue says it holds.
        queue: its name, for the reason.
        going: runs that are queued, starting, going or being cancelled.
        history: how earlier runs ended.
        now: the time, UTC.
        batch_messages: most messages that one run takes.
        max_runs: most runs going at once.
    """
    seen = f"queue {queue!r}: {depth}"
    if depth.visible == 0:
        return Decision(0, f"{seen}; nothing to receive")
    if depth.stalled:
        return Decision(0, f"{seen}; {STALL}")
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
    limit = 1 if history.failures_in_a_row else max_runs
    wanted = min(ceil(depth.visible / batch_messages), limit)
    if wanted <= going:
        return Decision(0, f"{seen}; {going} of at most {limit} runs are going, enough for now")
    return Decision(wanted - going, f"{seen}; starting {wanted - going} runs, {going} are going")


def history_of(records: Sequence[dg.RunRecord]) -> History:
    """Count the failures since the last success.

    Args:
        records: runs that ended in success or failure, newest first.
    """
    failures = 0
    for record in records:
        if record.dagster_run.status != dg.DagsterRunStatus.FAILURE:
            break
        failures += 1
    if not failures:
        return History()
    ended = records[0].end_time
    return History(failures, records[0].update_timestamp if ended is None else datetime.fromtimestamp(ended, UTC))


@dg.sensor(
    job_name=INGEST_JOB,
    minimum_interval_seconds=TICK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Reads the depth of the login queue, never a message, and starts as many runs as it takes, up to "
        "LOGINPIPE_MAX_RUNS. After failures it waits before it tries again."
    ),
)
def queue_depth_sensor(
    context: dg.SensorEvaluationContext, sqs: SqsResource, settings: dg.ResourceParam[Settings]
) -> dg.SensorResult:
    """Start runs as messages arrive.

    Raises:
        QueueError: the queue cannot be asked for its depth.
    """
    ended = dg.RunsFilter(job_name=INGEST_JOB, statuses=[dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE])
    decision = decide(
        sqs.depth(),
        queue=sqs.name,
        going=context.instance.get_runs_count(dg.RunsFilter(job_name=INGEST_JOB, statuses=_GOING)),
        history=history_of(context.instance.get_run_records(ended, limit=_HISTORY)),
        now=datetime.now(UTC),
        batch_messages=sqs.batch_messages,
        max_runs=settings.max_runs,
    )
    # A reason to skip is kept with the tick; a log line would make a file of each tick, every five seconds.
    # No run key: one that failed would never be asked for again.
    requests = [dg.RunRequest() for _ in range(decision.runs)]
    return dg.SensorResult(run_requests=requests, skip_reason=None if requests else decision.reason)
