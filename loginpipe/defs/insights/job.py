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

# Daily counts the newest day first, since that is what people look at. Duplicates the oldest first: the rows of a day follow
# from those of the days before.
_OLDEST_FIRST = {"daily_logins": False, "duplicate_devices": True, "duplicate_ips": True}


@dg.op
def refresh_stale_days(
    context: dg.OpExecutionContext, postgres: PostgresResource, settings: dg.ResourceParam[Settings]
) -> Iterator[dg.AssetMaterialization | dg.Output[None]]:
    """Compute again what is stale.

    Raises:
        DatabaseError: a day could not be written; the days before it are, and this one and those after it stay due.
    """
    stale = postgres.run(stale_days)
    for table, oldest_first in _OLDEST_FIRST.items():
        for day in sorted((day for day, tables in stale.items() if table in tables), reverse=not oldest_first):
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
