"""Define what Dagster does once a day: maintain partitions, delete old runs, and check whole days and partitions."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import dagster as dg

from loginpipe.common.errors import KeyFileError, LoginpipeError, SettingError, TokenKeyMismatchError, runbook
from loginpipe.common.settings import Settings
from loginpipe.defs.metadata import asset_key, check_result, daily_schedule, downstream_job, downstream_tags
from loginpipe.defs.resources import PostgresResource
from loginpipe.masking.keys import load_token_keys
from loginpipe.monitoring.anomalies import TRAILING_DAYS, Verdict, evaluate_null_locales, evaluate_volume
from loginpipe.postgres.batches import KEPT_DAYS, roll_up
from loginpipe.postgres.connections import Connection, connect
from loginpipe.postgres.contract import contract_differences, current_columns
from loginpipe.postgres.dagster_storage import (
    LOCK_TIMEOUT,
    Cutoffs,
    delete_evaluations,
    delete_runs,
    needed,
    old_runs,
    require_known,
)
from loginpipe.postgres.insights import DUPLICATES, DayCounts, compare_duplicates, daily_counts
from loginpipe.postgres.ledger import LedgerDay, read_ledger_days
from loginpipe.postgres.partitions import maintain, stray_rows
from loginpipe.postgres.token_keys import newest_key_version, require_known_keys

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition


# --- partitions and batches -------------------------------------------------------------------------------------------


@dg.op
def create_and_drop_partitions(context: dg.OpExecutionContext, postgres: PostgresResource) -> None:
    """Create future partitions, and drop the ledger's partitions that are older than any message on a queue can be.

    Replace batches that are no longer read one by one with sums.
    """
    today = datetime.now(UTC).date()
    result = postgres.run(partial(maintain, today=today))
    hours = postgres.run(partial(roll_up, today=today))
    done = (len(result.created), len(result.dropped), hours)
    context.log.info("created %d partitions, dropped %d; summed up the batches of %d hours", *done)
    context.add_output_metadata(
        {
            "created": dg.MetadataValue.json(result.created),
            "dropped": dg.MetadataValue.json(result.dropped),
            "unmanaged": dg.MetadataValue.json(result.unmanaged),
            "rows_in_default_partitions": dg.MetadataValue.json(result.rows_in_default),
            "hours_rolled_up": hours,
        }
    )


maintain_partitions = downstream_job(
    create_and_drop_partitions,
    "maintain_partitions",
    description=(
        "Creates future partitions of user_logins and of the ledger, and drops expired ones of the ledger. Replaces "
        f"batches older than {KEPT_DAYS} days with hourly sums."
    ),
    longest_seconds=3600,
)


maintenance_schedule = daily_schedule(
    "maintain_partitions_daily",
    "maintain_partitions",
    "15 0 * * *",
    "Every day at 00:15 UTC, well before the newest partition is needed.",
)


# --- Dagster's storage ------------------------------------------------------------------------------------------------

# Runs per transaction: about ten thousand events.
_RUNS_AT_ONCE = 200
# The limits of one execution. The next day's continues from there.
_MAX_RUNS = 50_000
_MAX_SECONDS = 1_800
# Each line of progress is a row in the storage that this job prunes.
_PROGRESS_SECONDS = 30


@dg.op
def delete_old_runs(context: dg.OpExecutionContext, settings: dg.ResourceParam[Settings]) -> None:
    """Delete runs that ended long enough ago, with their events and printed output.

    Raises:
        LoginpipeError: Dagster's storage is not in Postgres.
        SchemaError: the storage has unknown tables.
        DatabaseError: a statement failed. Earlier deletions stay.
    """
    cutoffs = Cutoffs.of(datetime.now(UTC), settings.keep_runs_days)
    with closing(connect(_url(context.instance), lock_timeout=LOCK_TIMEOUT)) as connection:
        counts = _delete(context, connection, cutoffs)
    context.log.info("deleted %d runs with %d events", counts["runs"], counts["events"])
    if counts["more_to_delete"]:
        context.log.info("more runs are old enough: the next run of this job deletes them")
    context.add_output_metadata(counts)


prune_dagster_storage = downstream_job(
    delete_old_runs,
    "prune_dagster_storage",
    description=(
        "Deletes runs older than LOGINPIPE_KEEP_RUNS_DAYS from Dagster's storage, with their events and printed "
        "output; failed and cancelled runs after 30 days. Runs with the newest materialization of an asset or "
        "partition, or the newest evaluation of a check, are kept."
    ),
    longest_seconds=3600,
)


PRUNING_SCHEDULE = "prune_dagster_storage_daily"

pruning_schedule = daily_schedule(
    PRUNING_SCHEDULE,
    "prune_dagster_storage",
    "45 0 * * *",
    "Every day at 00:45 UTC. Dagster itself deletes no runs.",
)


def _url(instance: dg.DagsterInstance) -> str:
    from dagster_postgres import PostgresEventLogStorage

    storage = instance.event_log_storage
    if not isinstance(storage, PostgresEventLogStorage):
        raise LoginpipeError(
            "Dagster's storage is not in Postgres, so nothing is deleted: set a Postgres storage in dagster.yaml"
        )
    return storage.postgres_url.replace("+psycopg2", "", 1)


def _delete(context: dg.OpExecutionContext, connection: Connection, cutoffs: Cutoffs) -> dict[str, int]:
    """Delete what is old enough, within the limits of one execution, and return the metadata of the op."""
    require_known(connection)
    stays = needed(connection)
    runs = events = kept = after = 0
    more, delete_output = False, True
    began = logged = time.monotonic()
    while old := old_runs(connection, cutoffs, stays, after=after, limit=_RUNS_AT_ONCE):
        after = old[-1].id
        run_ids = [run.run_id for run in old if not run.needed]
        kept += len(old) - len(run_ids)
        if run_ids:
            # Delete the output first: nothing can find the output of a deleted run.
            delete_output = delete_output and _output_deleted(context, run_ids)
            deleted_runs, deleted_events = delete_runs(connection, run_ids)
            runs, events = runs + deleted_runs, events + deleted_events
        if runs >= _MAX_RUNS or time.monotonic() - began >= _MAX_SECONDS:
            more = True
            break
        if time.monotonic() - logged >= _PROGRESS_SECONDS:
            logged = time.monotonic()
            context.log.info("so far: deleted %d runs with %d events", runs, events)
    evaluations = delete_evaluations(connection, cutoffs.succeeded, stays)
    counts = {"runs": runs, "events": events, "check_evaluations": evaluations}
    return {**counts, "kept_as_newest": kept, "more_to_delete": more}


def _output_deleted(context: dg.OpExecutionContext, run_ids: list[str]) -> bool:
    """Delete printed output until one deletion fails. A bucket may use a lifecycle rule instead; the runs still go."""
    try:
        for run_id in run_ids:
            context.instance.compute_log_manager.delete_logs(prefix=[run_id])
    except Exception as error:  # noqa: BLE001  each kind of manager has errors of its own
        context.log.info(
            "the printed output of runs was not deleted (%s); see %s", type(error).__name__, runbook("old-runs")
        )
        return False
    return True


# --- checks of whole days and partitions, with counts only; runs of the chain do not wait for them --------------------

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
