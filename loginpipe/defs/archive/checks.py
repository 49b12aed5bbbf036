"""Define the asset check on the archive: archived days that are still in the table are equal in both."""

from datetime import UTC, datetime
from functools import partial
from itertools import islice

import dagster as dg

from loginpipe.archive.verification import Comparison, compare_with_table
from loginpipe.defs.metadata.groups import LOGIN_ARCHIVE, runbook_link
from loginpipe.defs.resources import PostgresResource

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
