"""Define the asset checks of whole days and partitions, and the daily job that runs them. Counts only.

Runs of the chain do not wait for them.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import dagster as dg

from loginpipe.common.errors import KeyFileError, SettingError, TokenKeyMismatchError
from loginpipe.common.settings import Settings
from loginpipe.defs.metadata import asset_key, check_result, daily_schedule, downstream_tags
from loginpipe.defs.resources import PostgresResource
from loginpipe.masking.keys import load_token_keys
from loginpipe.monitoring.anomalies import TRAILING_DAYS, Verdict, evaluate_null_locales, evaluate_volume
from loginpipe.postgres.contract import contract_differences, current_columns
from loginpipe.postgres.insights import DUPLICATES, DayCounts, compare_duplicates, daily_counts
from loginpipe.postgres.ledger import LedgerDay, read_ledger_days
from loginpipe.postgres.partitions import stray_rows
from loginpipe.postgres.token_keys import newest_key_version, require_known_keys

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

_DAY = timedelta(days=1)
# So each day is compared three times.
_RECONCILED_DAYS = 3
_COMPARED_TOKENS = 1_000


@dg.asset_check(
    asset=asset_key("user_logins_table"),
    description=(
        "For today and the two days before, user_logins has as many rows as the ledger has messages that were not "
        "rejected. Missing rows are lost logins and an error, or a warning if a user was erased since. Surplus rows "
        "were written by another program: a warning, from the pipeline's second day on."
    ),
)
def ledger_matches_table(postgres: PostgresResource) -> dg.AssetCheckResult:
    """Compare the newest days of ledger and table."""
    today = _today()
    counts = postgres.run(partial(read_ledger_days, first=today - (_RECONCILED_DAYS - 1) * _DAY, last=today))
    if counts is None:
        why = "Not compared, because counting took longer than 5 minutes: create an index on user_logins (create_date)"
        return check_result("ledger-and-table-differ", False, why, warns=True)
    differing = [day for day in counts if not day.agrees]
    return check_result(
        "ledger-and-table-differ",
        not differing,
        "; ".join(map(str, differing)) or "Every message in the ledger is a row or a reject",
        {
            "missing_rows": sum(day.missing for day in differing if day.missing > 0),
            "surplus_rows": -sum(day.missing for day in differing if day.missing < 0),
            "days": _table(counts),
        },
        warns=not any(day.lost for day in differing),
    )


@dg.asset_check(
    asset=asset_key("user_logins_table"),
    description=(
        "No rows of user_logins or of the ledger are in a default partition, where queries are slow and retention "
        "finds none. A failure is a warning: maintain_partitions has not run, or messages have dates far from today."
    ),
)
def nothing_in_default_partitions(postgres: PostgresResource) -> dg.AssetCheckResult:
    """Count the rows in default partitions."""
    rows = {table: number for table, number in postgres.run(partial(stray_rows, today=_today())).items() if number}
    found = "; ".join(f"{number:,} rows of {table}" for table, number in rows.items())
    return check_result(
        "rows-in-default-partitions",
        not rows,
        found or "Default partitions are empty",
        {"rows": sum(rows.values()), "rows_by_table": dg.MetadataValue.json(rows)},
        warns=True,
    )


@dg.asset_check(
    asset=asset_key("user_logins_table"),
    description="user_logins has the columns of the contract, and no other column that a login must fill.",
)
def schema_matches_contract(postgres: PostgresResource) -> dg.AssetCheckResult:
    """Compare the table's current columns with the contract."""
    differences = contract_differences(postgres.run(current_columns))
    found = "; ".join(differences) or "The columns accept every login"
    return check_result("schema-does-not-match-contract", not differences, found, {"differences": len(differences)})


@dg.asset_check(
    asset=asset_key("masked_logins"),
    description=(
        "The current token key of this machine is the newest version that made tokens of this database, or a newer "
        "one. Otherwise runs on this machine refuse to start, because they would give known devices and addresses new "
        "tokens."
    ),
)
def token_key_version_current(postgres: PostgresResource, settings: dg.ResourceParam[Settings]) -> dg.AssetCheckResult:
    """Read the token keys as a run does, and compare them with the check values in the database."""
    try:
        keys = load_token_keys(settings.required("token_keys"), production=settings.production)
        postgres.run(partial(require_known_keys, keys=keys))
    except (SettingError, KeyFileError, TokenKeyMismatchError) as error:
        return check_result("keys-and-tokens", False, str(error))
    newest = postgres.run(newest_key_version)
    found = f"Version {keys.current} is current; the newest version that made tokens is {newest}"
    return check_result("keys-and-tokens", True, found, {"current": keys.current, "newest_used": newest})


@dg.asset_check(
    asset=asset_key("daily_logins"),
    description=(
        f"The number of yesterday's logins is close to the median of the {TRAILING_DAYS} days before, or to the same "
        "weekday before. A failure is a warning: something upstream has changed, or daily_logins is not computed. Not "
        "evaluated with fewer than 3 days to compare with, nor if those had fewer than 100 logins."
    ),
)
def daily_volume(postgres: PostgresResource) -> dg.AssetCheckResult:
    """Compare yesterday with the days before, by the counts of ``daily_logins``."""
    return _compared(postgres, evaluate_volume)


@dg.asset_check(
    asset=asset_key("daily_logins"),
    description=(
        f"The share of yesterday's logins without a locale is close to the median of the {TRAILING_DAYS} days before. "
        "A failure is a warning: an app release has stopped or started to send it. Not evaluated with fewer than 3 "
        "days to compare with, nor for fewer than 100 logins."
    ),
)
def null_locale_share(postgres: PostgresResource) -> dg.AssetCheckResult:
    """Compare yesterday with the days before, by the counts of ``daily_logins``."""
    return _compared(postgres, evaluate_null_locales)


def _duplicates_check(table: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        name="sample_matches_logins",
        asset=asset_key(table),
        description=(
            f"For a random complete day of the last month, up to {_COMPARED_TOKENS:,} tokens have the users, logins "
            "and dates that a computation from user_logins gives. If this fails, run `loginpipe insights rebuild`."
        ),
    )
    def sample_matches_logins(postgres: PostgresResource) -> dg.AssetCheckResult:
        """Compare a sample with a computation from the logins."""
        sample = postgres.run(partial(compare_duplicates, table=table, limit=_COMPARED_TOKENS))
        found = f"{sample.differing:,} of {sample.tokens:,} tokens of {sample.day} differ"
        return check_result(
            "duplicates-and-daily-counts",
            not sample.differing,
            found if sample.tokens else "Nothing to compare, or the day is still to be computed",
            {"tokens": sample.tokens, "differing": sample.differing, "day": str(sample.day)},
        )

    return sample_matches_logins


DAILY_CHECKS = (
    ledger_matches_table,
    nothing_in_default_partitions,
    schema_matches_contract,
    token_key_version_current,
    daily_volume,
    null_locale_share,
    *map(_duplicates_check, DUPLICATES),
)

CHECK_JOB = "check_tables"


def check_job() -> "UnresolvedAssetJobDefinition":
    """Return the job that checks whole days and whole partitions."""
    return dg.define_asset_job(
        CHECK_JOB,
        selection=dg.AssetSelection.checks(*DAILY_CHECKS),
        description="Compares the ledger with the table and yesterday with the days before, and checks partitions, "
        "schema and keys.",
        tags=downstream_tags(CHECK_JOB, longest_seconds=1800),
    )


check_schedule = daily_schedule(
    "check_tables_daily", CHECK_JOB, "30 1 * * *", "Every day at 01:30 UTC, when yesterday has been counted."
)


def _compared(
    postgres: PostgresResource, evaluate: Callable[[Mapping[date, DayCounts], date], Verdict]
) -> dg.AssetCheckResult:
    """Evaluate yesterday with the days before."""
    day = _today() - _DAY
    verdict = evaluate(postgres.run(partial(daily_counts, first=day - TRAILING_DAYS * _DAY, last=day)), day)
    return check_result("an-unusual-day", verdict.passed, verdict.message, verdict.figures, warns=True)


def _table(counts: Sequence[LedgerDay]) -> dg.MarkdownMetadataValue:
    lines = ["| day | in the ledger | rejected | rows | missing |", "| --- | ---: | ---: | ---: | ---: |"]
    lines += [f"| {d.day} | {d.recorded:,} | {d.rejected:,} | {d.rows:,} | {d.missing:,} |" for d in counts]
    return dg.MetadataValue.md("\n".join(lines))


def _today() -> date:
    return datetime.now(UTC).date()
