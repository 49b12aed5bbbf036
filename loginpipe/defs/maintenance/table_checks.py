"""Asset checks on what the tables hold: delays, key versions, default partitions, ledger against table. Counts only.

One is about a run, and is reported by the asset itself. The others run in a job of their own, once a day: a run of
the chain should not wait for what looks at whole days and partitions.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from functools import partial
from math import isfinite

import dagster as dg

from loginpipe.common.errors import KeyFileError, SettingError, TokenKeyMismatchError
from loginpipe.common.settings import load_settings
from loginpipe.defs.metadata.runbook import runbook_link
from loginpipe.defs.resources import PostgresResource
from loginpipe.logins.delays import DELAY_BOUNDS, quantile
from loginpipe.masking.keys import load_token_keys
from loginpipe.monitoring.anomalies import DELAYED_MOST, delayed
from loginpipe.postgres.reconciliation import DayBooks, read_books
from loginpipe.postgres.table_counts import newest_key_version, stray_rows
from loginpipe.postgres.token_key_checks import require_known_keys

_WARN = dg.AssetCheckSeverity.WARN
_DAY = timedelta(days=1)
# Each day is compared three times before it is left alone.
_RECONCILED_DAYS = 3

DELAY_WITHIN_LIMIT = dg.AssetCheckSpec(
    "delay_within_limit",
    asset="user_logins_table",
    description=(
        "At least 95 % of the logins that the run stored were stored within LOGINPIPE_MAX_DELAY_SECONDS of being sent. "
        "A warning: the pipeline is behind, or was."
    ),
)


def delay_within_limit(counts: Sequence[int], limit_seconds: int) -> dg.AssetCheckResult:
    """Judge the delays of a run.

    Args:
        counts: its rows by delay, one a bucket of `loginpipe.logins.delays`.
        limit_seconds: rounded up to the next bound of a bucket.
    """
    stored, late = sum(counts), delayed(counts, limit_seconds)
    return dg.AssetCheckResult(
        check_name=DELAY_WITHIN_LIMIT.name,
        asset_key=DELAY_WITHIN_LIMIT.asset_key,
        passed=late <= DELAYED_MOST * stored,
        severity=_WARN,
        description=f"{late:,} of {stored:,} logins took longer than {limit_seconds:,} s from sent to stored",
        metadata={
            "stored": stored,
            "late": late,
            "limit_seconds": limit_seconds,
            "p50": _span(quantile(counts, 0.5)),
            "p95": _span(quantile(counts, 0.95)),
            "runbook": runbook_link("the-backlog-grows"),
        },
    )


@dg.asset_check(
    asset="user_logins_table",
    description=(
        "Of today and the two days before: user_logins has as many rows as the ledger has messages that were not set "
        "aside. Missing rows are lost logins, an error, unless a user was erased since: then a warning. Rows beyond "
        "that were written by somebody else: a warning, from the pipeline's second day on."
    ),
)
def ledger_matches_table(postgres: PostgresResource) -> dg.AssetCheckResult:
    """Reconcile the newest days."""
    today = _today()
    books = postgres.run(partial(read_books, first=today - (_RECONCILED_DAYS - 1) * _DAY, last=today))
    if books is None:
        return dg.AssetCheckResult(
            passed=False,
            severity=_WARN,
            description="Not compared, since counting took longer than 5 minutes: index user_logins (create_date)",
            metadata={"runbook": runbook_link("ledger-and-table-differ")},
        )
    differing = [day for day in books if not day.agrees]
    return dg.AssetCheckResult(
        passed=not differing,
        severity=dg.AssetCheckSeverity.ERROR if any(day.lost for day in differing) else _WARN,
        description="; ".join(map(str, differing)) or "Every message in the ledger is a row or a reject",
        metadata={
            "missing_rows": sum(day.missing for day in differing if day.missing > 0),
            "surplus_rows": -sum(day.missing for day in differing if day.missing < 0),
            "days": _table(books),
            "runbook": runbook_link("ledger-and-table-differ"),
        },
    )


@dg.asset_check(
    asset="user_logins_table",
    description=(
        "No rows of user_logins or of the ledger are in a default partition, where queries find them slowly and "
        "retention does not. A warning: maintain_partitions has not run, or messages carry dates far from today's."
    ),
)
def nothing_in_default_partitions(postgres: PostgresResource) -> dg.AssetCheckResult:
    """Count what the default partitions hold."""
    rows = {table: number for table, number in postgres.run(partial(stray_rows, today=_today())).items() if number}
    return dg.AssetCheckResult(
        passed=not rows,
        severity=_WARN,
        description="; ".join(f"{number:,} rows of {table}" for table, number in rows.items()) or "None",
        metadata={
            "rows": sum(rows.values()),
            "rows_by_table": dg.MetadataValue.json(rows),
            "runbook": runbook_link("rows-in-default-partitions"),
        },
    )


@dg.asset_check(
    asset="masked_logins",
    description=(
        "The current token key of this machine is the newest that tokens of this database were made with, or newer. "
        "Otherwise runs on this machine refuse to begin: they would give known devices and addresses new tokens."
    ),
)
def token_key_version_current(postgres: PostgresResource) -> dg.AssetCheckResult:
    """Read the token keys as a run does, and compare them with the check values."""
    settings, link = load_settings(), runbook_link("keys-and-tokens")
    try:
        uri = settings.required("token_keys")
        keys = load_token_keys(uri, production=settings.production)
        postgres.run(partial(require_known_keys, keys=keys))
    except (SettingError, KeyFileError, TokenKeyMismatchError) as error:
        return dg.AssetCheckResult(passed=False, description=str(error), metadata={"runbook": link})
    newest = postgres.run(newest_key_version)
    return dg.AssetCheckResult(
        passed=True,
        description=f"Version {keys.current} is current; the newest that tokens were made with is {newest}",
        metadata={"current": keys.current, "newest_used": newest, "runbook": link},
    )


def _span(seconds: float) -> str:
    # Infinity is no number that the UI can show.
    return f"up to {seconds:,.0f} s" if isfinite(seconds) else f"over {DELAY_BOUNDS[-1]:,} s"


def _table(books: Sequence[DayBooks]) -> dg.MarkdownMetadataValue:
    lines = ["| day | in the ledger | rejected | rows | missing |", "| --- | ---: | ---: | ---: | ---: |"]
    lines += [f"| {d.day} | {d.recorded:,} | {d.rejected:,} | {d.rows:,} | {d.missing:,} |" for d in books]
    return dg.MetadataValue.md("\n".join(lines))


def _today() -> date:
    return datetime.now(UTC).date()
