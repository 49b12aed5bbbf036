"""Define the archive's jobs and schedules: archive complete days, and drop old months that are archived."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from functools import cache, partial

import dagster as dg

from loginpipe.archive.days import archive_day, compare_with_table, retire_month
from loginpipe.archive.restore import forget_erased
from loginpipe.archive.store import Stores
from loginpipe.common.errors import ArchivedDayError, SettingError, runbook
from loginpipe.common.logins_table import logins_table
from loginpipe.common.settings import Settings
from loginpipe.defs.archive.asset import archive_metadata, evaluated
from loginpipe.defs.metadata import LOGIN_ARCHIVE, downstream_tags, first_day
from loginpipe.defs.resources import PostgresResource
from loginpipe.masking.keys import load_token_keys
from loginpipe.postgres.archive import days_to_archive, days_to_search, drop_extras, outlived_months

_LONGEST_SECONDS = 21_600


@dg.op
def archive_changed_days(
    context: dg.OpExecutionContext, postgres: PostgresResource, settings: dg.ResourceParam[Settings]
) -> Iterator[dg.AssetMaterialization | dg.AssetCheckEvaluation | dg.Output[None]]:
    """Archive each complete day that is not archived or has changed since, and report archive_matches_table.

    Then rewrite the files of dropped days that contain users who were erased since.

    Raises:
        SettingError: LOGINPIPE_ARCHIVE_URL is not set, or no URL of an archive.
        ArchivedDayError: some days differ from their archive; the message names the first. The others are archived.
        KeyFileError: users were erased, and the token keys that identify them cannot be used.
        ArchiveError: the archive cannot be used.
        DatabaseError: the database cannot be used.
    """
    today, stores = datetime.now(UTC).date(), Stores(settings)
    context.log.info("archiving to %s", stores.current.url)
    due = postgres.run(partial(days_to_archive, today=today))
    at_odds: dict[date, str] = {}

    def remember(day: date, error: ArchivedDayError) -> None:
        at_odds[day] = str(error)
        context.log.warning("%s; see %s", error, runbook("archive-at-odds"))

    for day in due:
        try:
            archived = postgres.run(partial(archive_day, day=day, stores=stores, today=today))
        except ArchivedDayError as error:
            remember(day, error)
            continue
        context.log.info("%s: %s, %d logins", day, archived.outcome, archived.record.row_count)
        # The asset begins with its first day; the archive may have earlier ones.
        if day >= first_day(settings):
            yield dg.AssetMaterialization(
                LOGIN_ARCHIVE, partition=day.isoformat(), metadata=archive_metadata([archived])
            )
    yield evaluated(postgres.run(partial(compare_with_table, today=today)))
    to_search = postgres.run(days_to_search)
    keys = cache(lambda: load_token_keys(settings.required("token_keys"), production=settings.production))
    erased = 0
    for day in to_search:
        try:
            erased += postgres.run(partial(forget_erased, day=day, token_keys=keys, stores=stores))
        except ArchivedDayError as error:
            remember(day, error)
    if at_odds:
        days = len({*due, *to_search})
        raise ArchivedDayError(f"{len(at_odds)} of {days} days were not archived; the first: {at_odds[min(at_odds)]}")
    yield dg.Output(
        None, metadata={"days_due": len(due), "days_searched": len(to_search), "logins_of_erased_users": erased}
    )


@dg.job(
    name="archive_logins",
    description=(
        "Archives each complete day of user_logins that is not archived yet or has changed since. Removes users who "
        "were erased from the files of dropped days."
    ),
    tags=downstream_tags("archive_logins", longest_seconds=_LONGEST_SECONDS),
)
def archive_logins() -> None:
    """Archive the changed days every night."""
    archive_changed_days()


@dg.op
def drop_outlived_months(
    context: dg.OpExecutionContext, postgres: PostgresResource, settings: dg.ResourceParam[Settings]
) -> None:
    """Drop archived months older than LOGINPIPE_RETENTION_DAYS, and their extras. Report the months that stay.

    Raises:
        SettingError: LOGINPIPE_RETENTION_DAYS is not set.
        ArchiveError: the archive cannot be used.
        DatabaseError: a month could not be dropped. Earlier months are dropped.
    """
    today = datetime.now(UTC).date()
    if settings.retention_days is None:
        raise SettingError("LOGINPIPE_RETENTION_DAYS is not set: set it to the number of days that user_logins keeps")
    found = postgres.run(partial(outlived_months, today=today, days=settings.retention_days))
    left_alone = {logins_table(): found.not_ours} if found.not_ours else {}
    dropped, kept, stores = [], [], Stores(settings)
    for month in found.months:
        reason = retire_month(postgres.run, month=month, stores=stores)
        if reason is None:
            dropped.append(str(month))
        else:
            kept.append(month)
            left_alone[str(month)] = reason
            context.log.warning("%s was not dropped: %s; see %s", month, reason, runbook("month-not-dropped"))
    extras = postgres.run(partial(drop_extras, today=today, days=settings.retention_days, kept=kept))
    context.log.info(
        "dropped %d months, kept %d; dropped the extras of %d months", len(dropped), len(left_alone), len(extras)
    )
    context.add_output_metadata(
        {
            "detached_and_dropped": dg.MetadataValue.json(dropped),
            "left_alone": dg.MetadataValue.json(left_alone),
            "extras_dropped": dg.MetadataValue.json(extras),
            "rows_in_default_partition": found.rows_in_default,
        }
    )


@dg.job(
    name="drop_archived_partitions",
    description=(
        "Drops the months of user_logins that are older than LOGINPIPE_RETENTION_DAYS, after it has compared their "
        "files with the table. Then drops their extras."
    ),
    tags=downstream_tags("drop_archived_partitions", longest_seconds=_LONGEST_SECONDS),
)
def drop_archived_partitions() -> None:
    """Drop old months every night."""
    drop_outlived_months()


@dg.schedule(
    job=archive_logins,
    cron_schedule="0 2 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Every night at 02:00 UTC. Skips if LOGINPIPE_ARCHIVE_URL is not set.",
)
def archive_closed_days(settings: dg.ResourceParam[Settings]) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Request a run if there is an archive."""
    if settings.archive_url:
        yield dg.RunRequest()
    else:
        yield dg.SkipReason("LOGINPIPE_ARCHIVE_URL is not set: days stay in the table")


@dg.schedule(
    job=drop_archived_partitions,
    cron_schedule="30 3 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Every night at 03:30 UTC, after archive_closed_days. Skips if LOGINPIPE_RETENTION_DAYS is not set.",
)
def drop_archived_partitions_daily(settings: dg.ResourceParam[Settings]) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Request a run if retention is limited."""
    if settings.retention_days is not None:
        yield dg.RunRequest()
    else:
        yield dg.SkipReason("LOGINPIPE_RETENTION_DAYS is not set: user_logins keeps all days")
