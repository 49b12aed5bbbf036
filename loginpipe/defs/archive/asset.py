"""Define the archive asset: complete days as Parquet files, one or many per run. Unchanged days are skipped."""

import warnings
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from functools import partial
from typing import Any

import dagster as dg

from loginpipe.archive.days import Archived, archive_day, require_over
from loginpipe.archive.store import Stores
from loginpipe.common.settings import Settings
from loginpipe.defs.metadata.columns import column_lineage, column_schema
from loginpipe.defs.metadata.groups import ARCHIVE, DAYS_THAT_ARE_OVER, LOGIN_ARCHIVE, OWNERS, asset_key
from loginpipe.defs.metadata.plots import bar_plot
from loginpipe.defs.resources import PostgresResource
from loginpipe.logins.user_logins import USER_LOGINS_COLUMNS

# Dagster warns that `backfill_policy` may still change, on every command's output.
warnings.filterwarnings("ignore", message="Parameter `backfill_policy`", category=dg.BetaWarning)

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
