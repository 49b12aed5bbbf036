"""The job that computes duplicates and daily counts, and the sensor that asks for the days that got logins."""

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import dagster as dg

from loginpipe.defs.maintenance.daily_checks import DAILY_CHECKS
from loginpipe.defs.metadata.groups import DAYS, INSIGHTS
from loginpipe.defs.resources import PostgresResource
from loginpipe.postgres.insights import days_touched

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

# A batch has its time before it can be seen: what was recorded since shortly before the last tick is read again.
_OVERLAP = timedelta(minutes=2)

INSIGHTS_JOB = "refresh_insights"


def insights_job() -> "UnresolvedAssetJobDefinition":
    """Return the job that computes duplicates and daily counts of some days anew."""
    return dg.define_asset_job(
        INSIGHTS_JOB,
        selection=dg.AssetSelection.groups(INSIGHTS) - dg.AssetSelection.checks(*DAILY_CHECKS),
        description="Duplicates and daily counts of one day or more, computed anew from user_logins.",
        tags={"dagster/max_runtime": "3600"},
    )


@dg.sensor(
    job_name=INSIGHTS_JOB,
    minimum_interval_seconds=600,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Computes duplicates and daily counts anew for the days of which batches have brought logins since the last "
        "tick: mostly today, and earlier days where messages came late."
    ),
)
def insights_sensor(context: dg.SensorEvaluationContext, postgres: PostgresResource) -> dg.SensorResult:
    """Ask for one run a day that was touched.

    Raises:
        DatabaseError: the batches cannot be read.
    """
    now = datetime.now(UTC)
    since = datetime.fromisoformat(context.cursor) if context.cursor else now - timedelta(days=1)
    known = set(DAYS.get_partition_keys(now))
    days = [day.isoformat() for day in postgres.run(partial(days_touched, since=since - _OVERLAP, until=now))]
    requests = [dg.RunRequest(partition_key=day) for day in days if day in known]
    return dg.SensorResult(
        run_requests=requests,
        skip_reason=None if requests else f"no batch has brought logins since {since:%Y-%m-%d %H:%M:%S} UTC",
        cursor=now.isoformat(),
    )
