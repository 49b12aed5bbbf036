"""The sensor that keeps duplicates and daily counts up to date: it asks which days runs have brought logins of."""

from datetime import UTC, datetime, timedelta
from functools import partial

import dagster as dg

from loginpipe.defs.ingest.job import INSIGHTS_JOB
from loginpipe.defs.metadata.partitions import DAYS
from loginpipe.defs.resources import PostgresResource
from loginpipe.postgres.insights import days_touched

# A run's end is written before it can be seen: what ended since shortly before the last look is looked at again.
_OVERLAP = timedelta(minutes=2)


@dg.sensor(
    job_name=INSIGHTS_JOB,
    minimum_interval_seconds=600,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Computes duplicates and daily counts anew for the days of which runs have brought logins since the last tick: "
        "mostly today, and earlier days where messages came late."
    ),
)
def insights_sensor(context: dg.SensorEvaluationContext, postgres: PostgresResource) -> dg.SensorResult:
    """Ask for one run a day that was touched.

    Raises:
        DatabaseError: the runs' books cannot be read.
    """
    now = datetime.now(UTC)
    since = datetime.fromisoformat(context.cursor) if context.cursor else now - timedelta(days=1)
    known = set(DAYS.get_partition_keys(now))
    days = [day.isoformat() for day in postgres.run(partial(days_touched, since=since - _OVERLAP, until=now))]
    requests = [dg.RunRequest(partition_key=day) for day in days if day in known]
    return dg.SensorResult(
        run_requests=requests,
        skip_reason=None if requests else f"no run has brought logins since {since:%Y-%m-%d %H:%M:%S} UTC",
        cursor=now.isoformat(),
    )
