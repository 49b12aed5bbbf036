"""Define the sensor that starts a run when days have changed. The run itself finds the days."""

from collections.abc import Collection
from datetime import UTC, date, datetime, timedelta
from functools import partial

import dagster as dg

from loginpipe.common.settings import Settings
from loginpipe.defs.ingest.sensor import ACTIVE, ended_at
from loginpipe.defs.insights.job import INSIGHTS_JOB
from loginpipe.defs.metadata.groups import LOCATION_TAGS, first_day
from loginpipe.defs.resources import PostgresResource
from loginpipe.postgres.days import stale_days

TICK_SECONDS = 60

SHORTEST_PAUSE = timedelta(minutes=10)
"""Between two runs. Today changes while logins arrive, and would be computed again and again."""

PAUSE_FACTOR = 4
"""Ratio of a pause to the run before it, at least. So insights take at most a fifth of the time."""

_ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


def why_not_now(
    stale: Collection[date], *, active: bool, last_run: tuple[datetime, datetime] | None, now: datetime
) -> str | None:
    """Return the reason to start no run now, or None to start one.

    Args:
        stale: the days that have changed.
        active: True if a run is queued or has not ended.
        last_run: start and end of the last run that ended; None if there is none.
        now: the time, UTC.
    """
    if not stale:
        return "no day has changed since its insights were computed"
    due = f"{len(stale)} days have changed, the newest is {max(stale)}"
    if active:
        return f"{due}; a run is queued or active"
    if last_run is not None:
        started, ended = last_run
        next_run = ended + max(SHORTEST_PAUSE, PAUSE_FACTOR * (ended - started))
        if now < next_run:
            return f"{due}; the next run starts at {next_run:%Y-%m-%d %H:%M:%S} UTC"
    return None


@dg.sensor(
    job_name=INSIGHTS_JOB,
    minimum_interval_seconds=TICK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Starts one run when days have changed since their duplicates and daily counts were computed: mostly today, "
        "yesterday once it is complete, and earlier days if messages came late or a user was erased. It waits ten "
        "minutes after the last run, longer if runs take long, and starts none while one is queued or active."
    ),
)
def insights_sensor(
    context: dg.SensorEvaluationContext, postgres: PostgresResource, settings: dg.ResourceParam[Settings]
) -> dg.SensorResult:
    """Start a run, or return the reason to skip.

    Raises:
        DatabaseError: the changed days cannot be read.
    """
    instance, now = context.instance, datetime.now(UTC)
    runs = dg.RunsFilter(job_name=INSIGHTS_JOB, statuses=ACTIVE, tags=LOCATION_TAGS)
    yesterday = now.date() - timedelta(days=1)
    over = yesterday if yesterday >= first_day(settings) else None
    reason = why_not_now(
        postgres.run(partial(stale_days, over=over)),
        active=bool(instance.get_run_records(runs, limit=1)),
        last_run=_last_run(instance),
        now=now,
    )
    return dg.SensorResult(run_requests=[] if reason else [dg.RunRequest()], skip_reason=reason)


def _last_run(instance: dg.DagsterInstance) -> tuple[datetime, datetime] | None:
    runs = dg.RunsFilter(job_name=INSIGHTS_JOB, statuses=_ENDED, tags=LOCATION_TAGS)
    for record in instance.get_run_records(runs, limit=1):
        ended = ended_at(record)
        return ended if record.start_time is None else datetime.fromtimestamp(record.start_time, UTC), ended
    return None
