"""Define the insights, duplicates and login counts by day as tokens and counts only, and what keeps them up to date."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any

import dagster as dg

from loginpipe.common.errors import DatabaseError
from loginpipe.common.settings import Settings
from loginpipe.defs.ingest.sensor import ACTIVE, ended_at
from loginpipe.defs.metadata import (
    COUNTED_IN_TIME,
    DAYS,
    INSIGHTS,
    LOCATION_TAGS,
    OWNERS,
    asset_key,
    bar_plot,
    column_lineage,
    column_schema,
    downstream_job,
    first_day,
)
from loginpipe.defs.resources import PostgresResource
from loginpipe.postgres.days import stale_days
from loginpipe.postgres.insights import (
    DUPLICATES,
    DuplicatesOfDay,
    LoginsOfDay,
    refresh_daily_logins,
    refresh_duplicates,
)
from loginpipe.postgres.session import is_passing

_MEANING: Mapping[str, str] = {"duplicate_devices": "devices", "duplicate_ips": "addresses"}


def _insight(
    name: str, columns: Mapping[str, str | None], *, code_version: str, description: str
) -> dg.AssetsDefinition:
    """Return an asset by day. ``columns`` has the column of user_logins that each column is made from."""
    sources = {column: source for column, source in columns.items() if source}

    @dg.asset(
        key=asset_key(name),
        group_name=INSIGHTS,
        partitions_def=DAYS,
        # A backfill of a year is one run, not 365.
        backfill_policy=dg.BackfillPolicy.single_run(),
        freshness_policy=COUNTED_IN_TIME,
        deps=[asset_key("user_logins_table")],
        owners=OWNERS,
        kinds={"postgres", "table"},
        code_version=code_version,
        metadata={
            **column_schema(*columns),
            "dagster/table_name": f"loginpipe.{name}",
            **column_lineage("user_logins_table", sources),
        },
        description=description,
    )
    def insight(context: dg.AssetExecutionContext, postgres: PostgresResource) -> dg.MaterializeResult[None]:
        """Compute the days of this run again. If a day cannot be written, the earlier ones are."""
        days = sorted(date.fromisoformat(key) for key in context.partition_keys)
        return dg.MaterializeResult(metadata=refreshed(postgres, name, days))

    return insight


def _duplicates_asset(name: str) -> dg.AssetsDefinition:
    what, token, day = _MEANING[name], DUPLICATES[name], "create_date"
    return _insight(
        name,
        {day: day, token: token, "users": "user_id", "logins": None, "first_date": day, "last_date": day},
        code_version="3",
        description=(
            f"For each day, the {what} seen on it that more than one user has used up to the end of that day: number "
            "of users and logins, first and last date. Tokens that older key versions made of the same value count as "
            "one; placeholders, such as the nil UUID, are left out. The view "
            f"loginpipe.{name.replace('duplicate', 'shared')} has the newest state of each."
        ),
    )


_GROUPED = ("create_date", "device_type", "locale", "app_version")

duplicate_devices, duplicate_ips = map(_duplicates_asset, ("duplicate_devices", "duplicate_ips"))
daily_logins = _insight(
    "daily_logins",
    {**{name: name for name in _GROUPED}, "logins": None, "users": "user_id"},
    code_version="1",
    description=(
        "Logins and distinct users of each day by device type, locale and version. Do not sum the users: one user may "
        "have two devices. The view loginpipe.daily_logins_by_version has the version as text."
    ),
)


def refreshed(postgres: PostgresResource, table: str, days: Sequence[date]) -> dict[str, Any]:
    """Compute days of one of the three tables again, each in its own transaction, and return the UI's metadata."""
    if table in DUPLICATES:
        work = partial(refresh_duplicates, table=table)
        return _duplicates_metadata(table, {day: postgres.run(partial(work, day=day)) for day in days})
    return _counts_metadata({day: postgres.run(partial(refresh_daily_logins, day=day)) for day in days})


def _duplicates_metadata(table: str, found: Mapping[date, DuplicatesOfDay]) -> dict[str, Any]:
    newest, by_day = found[max(found)], {str(day): of_day.shared for day, of_day in found.items()}
    return {
        "dagster/row_count": sum(by_day.values()),
        "seen": newest.seen,
        "shared": newest.shared,
        "share": newest.shared / newest.seen if newest.seen else 0.0,
        "most_users": dg.MetadataValue.md(preview(newest)),
        "by_day": bar_plot(f"{_MEANING[table]} of more than one user", by_day),
    }


def _counts_metadata(found: Mapping[date, LoginsOfDay]) -> dict[str, Any]:
    newest, by_day = found[max(found)], {str(day): of_day.logins for day, of_day in found.items()}
    return {
        "dagster/row_count": sum(by_day.values()),
        "logins": newest.logins,
        "by_device_type": bar_plot("logins by device type", newest.by_device_type),
        "by_locale": bar_plot("logins by locale", newest.by_locale),
        "by_version": bar_plot("logins by version", newest.by_version),
        "by_day": bar_plot("logins", by_day),
    }


def preview(found: DuplicatesOfDay) -> str:
    """Return the tokens with the most users as a Markdown table."""
    lines = ["| users | logins | token | first | last |", "| --- | --- | --- | --- | --- |"]
    rows = ((users, logins, token, *dates) for token, users, logins, *dates in found.top)
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


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


insights_job = downstream_job(
    refresh_stale_days,
    INSIGHTS_JOB,
    description=(
        "Computes duplicates and daily counts again for all days that have changed since the last computation, in one "
        "run."
    ),
    longest_seconds=3600,
)


# Between two runs. Today changes while logins arrive, and would be computed again and again.
_MIN_PAUSE = timedelta(minutes=10)
# Ratio of a pause to the run before it, at least. So insights take at most a fifth of the time.
_PAUSE_FACTOR = 4
_ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


def why_not_now(
    stale: Collection[date], *, active: bool, last_run: tuple[datetime, datetime] | None, now: datetime
) -> str | None:
    """Return the reason to start no run now (UTC), or None to start one.

    ``stale`` has the days that have changed, ``last_run`` start and end of the last run that ended. A queued run counts
    as active.
    """
    if not stale:
        return "no day has changed since its insights were computed"
    due = f"{len(stale)} days have changed, the newest is {max(stale)}"
    if active:
        return f"{due}; a run is queued or active"
    if last_run is not None:
        started, ended = last_run
        next_run = ended + max(_MIN_PAUSE, _PAUSE_FACTOR * (ended - started))
        if now < next_run:
            return f"{due}; the next run starts at {next_run:%Y-%m-%d %H:%M:%S} UTC"
    return None


@dg.sensor(
    job_name=INSIGHTS_JOB,
    minimum_interval_seconds=60,
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
    """Start a run, or return the reason to skip."""
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
