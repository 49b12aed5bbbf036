"""Define the archive asset, complete days as Parquet files, and its check. Unchanged days are skipped."""

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from functools import partial
from itertools import islice
from typing import Any

import dagster as dg

from loginpipe.archive.days import Archived, Comparison, archive_day, compare_with_table, require_over
from loginpipe.archive.store import Stores
from loginpipe.common.logins_table import USER_LOGINS_COLUMNS
from loginpipe.common.settings import Settings
from loginpipe.defs.metadata import (
    ARCHIVE,
    DAYS_THAT_ARE_OVER,
    LOGIN_ARCHIVE,
    OWNERS,
    asset_key,
    bar_plot,
    column_lineage,
    column_schema,
    runbook_link,
)
from loginpipe.defs.resources import PostgresResource

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

    Raises:
        SettingError: LOGINPIPE_ARCHIVE_URL is no URL of an archive.
        ArchivedDayError: a day is not over (then nothing was written), or differs from its archive.
        ArchiveError: the archive cannot be used. Earlier days are archived.
        DatabaseError: the database cannot be used. Earlier days are archived.
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
    outcomes = [of_day.outcome.value for of_day in archived]
    return {
        "dagster/row_count": rows,
        "bytes": size,
        "bytes_per_login": size / rows if rows else 0.0,
        "outcome": dg.MetadataValue.json({outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))}),
        "url": dg.MetadataValue.text(records[-1].url),
        "sha256": dg.MetadataValue.text(records[-1].sha256),
        **(
            {"by_day": bar_plot("logins archived", {str(record.day): record.row_count for record in records})}
            if len(records) > 1
            else {}
        ),
    }


ARCHIVE_MATCHES_TABLE = "archive_matches_table"
_SHOWN = 10


@dg.asset_check(
    name=ARCHIVE_MATCHES_TABLE,
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
    # The check passes if nothing differs.
    differing = comparison.differing
    return dg.AssetCheckResult(
        check_name=ARCHIVE_MATCHES_TABLE,
        asset_key=LOGIN_ARCHIVE,
        passed=not differing,
        severity=dg.AssetCheckSeverity.WARN,
        description=(
            f"{len(differing):,} of {comparison.compared + comparison.dropped:,} archived days differ from user_logins"
            if differing
            else f"{comparison.compared:,} archived days match user_logins; {comparison.dropped:,} are only in "
            "the archive"
        ),
        metadata={
            "days_compared": comparison.compared,
            "days_in_the_archive_only": comparison.dropped,
            "days_not_archived": comparison.not_archived,
            "days_that_differ": len(differing),
            "which": dg.MetadataValue.json({str(day): how for day, how in islice(sorted(differing.items()), _SHOWN)}),
            "runbook": runbook_link("archive-differs"),
        },
    )


def evaluated(comparison: Comparison) -> dg.AssetCheckEvaluation:
    """Convert a comparison to a check evaluation, for runs that do not materialize the asset."""
    result = _result(comparison)
    return dg.AssetCheckEvaluation(
        asset_key=LOGIN_ARCHIVE,
        check_name=ARCHIVE_MATCHES_TABLE,
        passed=result.passed,
        severity=result.severity,
        description=result.description,
        metadata=dict(result.metadata or {}),
    )
