"""The job that computes duplicates and daily counts of all days that have changed since they were computed."""

from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg

from loginpipe.common.settings import Settings
from loginpipe.defs.insights.assets import refreshed
from loginpipe.defs.metadata.groups import downstream_tags, first_day
from loginpipe.defs.resources import PostgresResource
from loginpipe.postgres.days import stale_days

INSIGHTS_JOB = "refresh_insights"

# What costs a day's logins first; each of the others looks at the whole history of what was seen on the day.
_ORDER = ("daily_logins", "duplicate_devices", "duplicate_ips")


@dg.op
def refresh_stale_days(
    context: dg.OpExecutionContext, postgres: PostgresResource, settings: dg.ResourceParam[Settings]
) -> Iterator[dg.AssetMaterialization | dg.Output[None]]:
    """Compute again what is stale, the newest day first.

    Raises:
        DatabaseError: a day could not be written; the days before it are, and this one and those after it stay due.
    """
    stale = postgres.run(stale_days)
    for table in _ORDER:
        for day in (day for day, tables in stale.items() if table in tables):
            metadata = refreshed(postgres, table, [day])
            # The assets have no days before their first one and none to come; the tables may.
            if first_day(settings) <= day <= datetime.now(UTC).date():
                yield dg.AssetMaterialization(table, partition=day.isoformat(), metadata=metadata)
    context.log.info("computed the insights of %d days", len(stale))
    yield dg.Output(None, metadata={"days": len(stale)})


@dg.job(
    name=INSIGHTS_JOB,
    description=(
        "Computes duplicates and daily counts again for the days that have changed since: in one run, however many "
        "there are and however far apart."
    ),
    tags=downstream_tags(INSIGHTS_JOB, longest_seconds=3600),
)
def insights_job() -> None:
    """What is stale, whenever the sensor finds some."""
    refresh_stale_days()
