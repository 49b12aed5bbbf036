"""Asset checks on whether yesterday was like the days before it, by the counts of ``daily_logins``. Counts only."""

from datetime import UTC, date, datetime, timedelta
from functools import partial

import dagster as dg

from loginpipe.defs.metadata.runbook import runbook_link
from loginpipe.defs.resources import PostgresResource
from loginpipe.monitoring.anomalies import TRAILING_DAYS, Verdict, judge_null_locales, judge_volume
from loginpipe.postgres.insights import DayCounts, daily_counts

_DAY = timedelta(days=1)


@dg.asset_check(
    asset="daily_logins",
    description=(
        f"Yesterday's logins are about as many as the median of the {TRAILING_DAYS} days before, or as on the same "
        "weekday before. A warning: something upstream has changed, or daily_logins is not computed. Not judged with "
        "fewer than 3 days to compare with, nor where they had fewer than 100 logins."
    ),
)
def daily_volume(postgres: PostgresResource) -> dg.AssetCheckResult:
    """Compare yesterday with the trailing days, by the counts of ``daily_logins``."""
    yesterday = datetime.now(UTC).date() - _DAY
    return _unusual(judge_volume(_counts(postgres, yesterday), yesterday))


@dg.asset_check(
    asset="daily_logins",
    description=(
        f"The share of yesterday's logins without a locale is about the median of the {TRAILING_DAYS} days before. A "
        "warning: an app release sends it no more, or others do now. Not judged with fewer than 3 days to compare "
        "with, nor for fewer than 100 logins."
    ),
)
def null_locale_share(postgres: PostgresResource) -> dg.AssetCheckResult:
    """Compare yesterday with the trailing days, by the counts of ``daily_logins``."""
    yesterday = datetime.now(UTC).date() - _DAY
    return _unusual(judge_null_locales(_counts(postgres, yesterday), yesterday))


def _counts(postgres: PostgresResource, day: date) -> dict[date, DayCounts]:
    return postgres.run(partial(daily_counts, first=day - TRAILING_DAYS * _DAY, last=day))


def _unusual(verdict: Verdict) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=verdict.passed,
        severity=dg.AssetCheckSeverity.WARN,
        description=verdict.says,
        metadata={**verdict.figures, "runbook": runbook_link("an-unusual-day")},
    )
