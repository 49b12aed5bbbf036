"""Define the job that computes duplicates and daily counts of all days that have changed."""

from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg

from loginpipe.common.errors import DatabaseError
from loginpipe.common.settings import Settings
from loginpipe.defs.insights.assets import refreshed
from loginpipe.defs.metadata.groups import asset_key, downstream_tags, first_day
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
