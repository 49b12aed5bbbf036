"""Define the archive of complete days as Parquet files: the asset, its check, the jobs and their schedules."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from functools import cache, partial
from itertools import islice
from typing import Any

import dagster as dg

from loginpipe.archive.days import Archived, Comparison, archive_day, compare_with_table, require_over, retire_month
from loginpipe.archive.restore import forget_erased
from loginpipe.archive.store import Stores
from loginpipe.common.errors import ArchivedDayError, SettingError, runbook
from loginpipe.common.logins_table import USER_LOGINS_COLUMNS, logins_table
from loginpipe.common.settings import Settings
from loginpipe.defs.metadata import (
    ARCHIVE,
    DAYS_THAT_ARE_OVER,
    LOGIN_ARCHIVE,
    OWNERS,
    asset_key,
    bar_plot,
    check_result,
    column_lineage,
    column_schema,
    downstream_job,
    evaluation,
    first_day,
)
from loginpipe.defs.resources import PostgresResource
from loginpipe.masking.keys import load_token_keys
from loginpipe.postgres.archive import days_to_archive, days_to_search, drop_extras, outlived_months

_COLUMNS = tuple(name for name, _ in USER_LOGINS_COLUMNS)


@dg.asset(
    key=LOGIN_ARCHIVE,
    group_name=ARCHIVE,
    partitions_def=DAYS_THAT_ARE_OVER,
    # A backfill of a year is one run, not 365.
    backfill_policy=dg.BackfillPolicy.single_run(),
    # Without an archive the asset yields no output, so that "Materialize all" succeeds.
    output_required=False,
    deps=[asset_key("user_logins_table")],
    owners=OWNERS,
    kinds={"parquet", "s3"},
    code_version="1",
    metadata={
        **column_schema(*_COLUMNS),
        **column_lineage("user_logins_table", {column: column for column in _COLUMNS}),
    },
    description=(
        "The logins of a complete day as a Parquet file (zstd) under LOGINPIPE_ARCHIVE_URL, with the columns and "
        "tokens of user_logins. Each file is read back before loginpipe.archived_days records its rows, checksum and "
        "URL. A day that has changed since is written again; one that has not is skipped. The job archive_logins does "
        "this every night; docs/archive.md explains how to read the files. If LOGINPIPE_ARCHIVE_URL is not set, a run "
        "writes nothing and succeeds."
    ),
)
def login_archive(
    context: dg.AssetExecutionContext, postgres: PostgresResource, settings: dg.ResourceParam[Settings]
) -> Iterator[dg.MaterializeResult[None]]:
    """Archive the days of this run, if there is an archive.

    If a day is not over, nothing is written. After any other error, the earlier days are archived.
    """
    if not settings.archive_url:
        context.log.warning("LOGINPIPE_ARCHIVE_URL is not set: nothing was archived, days stay in the table")
        return
    today, stores = datetime.now(UTC).date(), Stores(settings)
    context.log.info("archiving to %s", stores.current.url)
    days = sorted(date.fromisoformat(key) for key in context.partition_keys)
    require_over(days, today)
    archived = []
    for day in days:
        work = partial(archive_day, day=day, stores=stores, today=today)
        archived.append(postgres.run(work))
        context.log.info("%s: %s, %d logins", day, archived[-1].outcome, archived[-1].record.row_count)
    yield dg.MaterializeResult(metadata=archive_metadata(archived))


def archive_metadata(archived: Sequence[Archived]) -> dict[str, Any]:
    """Return the UI's metadata of archived days (oldest first): their sums, and the location of the last one."""
    records = [of_day.record for of_day in archived]
    rows, size = sum(record.row_count for record in records), sum(record.file_bytes for record in records)
    outcomes = Counter(sorted(of_day.outcome.value for of_day in archived))
    by_day = {str(record.day): record.row_count for record in records}
    return {
        "dagster/row_count": rows,
        "bytes": size,
        "bytes_per_login": size / rows if rows else 0.0,
        "outcome": dg.MetadataValue.json(dict(outcomes)),
        "url": dg.MetadataValue.text(records[-1].url),
        "sha256": dg.MetadataValue.text(records[-1].sha256),
        **({"by_day": bar_plot("logins archived", by_day)} if len(records) > 1 else {}),
    }


ARCHIVE_MATCHES_TABLE = dg.AssetCheckKey(LOGIN_ARCHIVE, "archive_matches_table")
_SHOWN = 10


@dg.asset_check(
    name=ARCHIVE_MATCHES_TABLE.name,
    asset=LOGIN_ARCHIVE,
    description=(
        "Archived days that are still in user_logins have as many rows there as in their files. Compares the last 31 "
        "days and one older month, a different one each night; the newest three days also by checksum. A failure is a "
        "warning: the next night writes these days again. To verify the files, run `loginpipe archive verify`."
    ),
)
def archive_matches_table(postgres: PostgresResource) -> dg.AssetCheckResult:
    """Compare the archive with the table."""
    return _result(postgres.run(partial(compare_with_table, today=datetime.now(UTC).date())))


def _result(comparison: Comparison) -> dg.AssetCheckResult:
    differing = comparison.differing
    found = (
        f"{len(differing):,} of {comparison.compared + comparison.dropped:,} archived days differ from user_logins"
        if differing
        else f"{comparison.compared:,} archived days match user_logins; {comparison.dropped:,} are only in the archive"
    )
    figures = {
        "days_compared": comparison.compared,
        "days_in_the_archive_only": comparison.dropped,
        "days_not_archived": comparison.not_archived,
        "days_that_differ": len(differing),
        "which": dg.MetadataValue.json({str(day): how for day, how in islice(sorted(differing.items()), _SHOWN)}),
    }
    return check_result("archive-differs", not differing, found, figures, of=ARCHIVE_MATCHES_TABLE, warns=True)


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
    yield evaluation(ARCHIVE_MATCHES_TABLE, _result(postgres.run(partial(compare_with_table, today=today))))
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


archive_logins = downstream_job(
    archive_changed_days,
    "archive_logins",
    description=(
        "Archives each complete day of user_logins that is not archived yet or has changed since. Removes users who "
        "were erased from the files of dropped days."
    ),
    longest_seconds=_LONGEST_SECONDS,
)


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


drop_archived_partitions = downstream_job(
    drop_outlived_months,
    "drop_archived_partitions",
    description=(
        "Drops the months of user_logins that are older than LOGINPIPE_RETENTION_DAYS, after it has compared their "
        "files with the table. Then drops their extras."
    ),
    longest_seconds=_LONGEST_SECONDS,
)


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
