"""Define the job that computes duplicates and daily counts of all changed days, and the sensor that starts it."""

from collections.abc import Collection, Iterator
from datetime import UTC, date, datetime, timedelta
from functools import partial

import dagster as dg

from loginpipe.common.errors import DatabaseError
from loginpipe.common.settings import Settings
from loginpipe.defs.ingest.sensor import ACTIVE, ended_at
from loginpipe.defs.insights.assets import refreshed
from loginpipe.defs.metadata import LOCATION_TAGS, asset_key, downstream_tags, first_day
from loginpipe.defs.resources import PostgresResource
from loginpipe.postgres.days import stale_days
from loginpipe.postgres.session import is_passing

INSIGHTS_JOB = "refresh_insights"

# Daily counts: the newest day first, because people read that one. Duplicates: the oldest first, because the rows of
# a day depend on the days before.
_OLDEST_FIRST = {"daily_logins": False, "duplicate_devices": True, "duplicate_ips": True}


@dg.op
def refresh_stale_days(
    context: dg.OpExecutionContext, postgres: PostgresResource, settings: dg.ResourceParam[Settings]
) -> Iterator[dg.AssetMaterialization | dg.Output[None]]:
    """Compute stale days again. A failed day stops neither other tables nor daily counts of other days.

    Raises:
        DatabaseError: days could not be computed and stay due (the message names the first), or the database is down.
    """
    stale = postgres.run(stale_days)
    failed: dict[str, DatabaseError] = {}
    for table, oldest_first in _OLDEST_FIRST.items():
        for day in sorted((day for day, tables in stale.items() if table in tables), reverse=not oldest_first):
            try:
                metadata = refreshed(postgres, table, [day])
            except DatabaseError as error:
                if is_passing(error):
                    raise
                failed[f"{table} of {day}"] = error
                context.log.warning("%s of %s: %s", table, day, error)
                continue
            # The assets have partitions from the first day to today only; the tables may have other days.
            if first_day(settings) <= day <= datetime.now(UTC).date():
                yield dg.AssetMaterialization(asset_key(table), partition=day.isoformat(), metadata=metadata)
    if failed:
        first = min(failed)
        raise DatabaseError(f"{len(failed)} insights were not computed; {first}: {failed[first]}")
    context.log.info("computed the insights of %d days", len(stale))
    yield dg.Output(None, metadata={"days": len(stale)})


@dg.job(
    name=INSIGHTS_JOB,
    description=(
        "Computes duplicates and daily counts again for all days that have changed since the last computation, in one "
        "run."
    ),
    tags=downstream_tags(INSIGHTS_JOB, longest_seconds=3600),
)
def insights_job() -> None:
    """Refresh stale days when the sensor finds any."""
    refresh_stale_days()


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
