"""Describe the assets for the UI: groups, owners, daily partitions, columns, plots, and sections of the runbook."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from typing import Any

import dagster as dg

from loginpipe.common.errors import runbook
from loginpipe.common.settings import Settings, load_settings

# Settings are read at import, because Dagster's decorators need keys and tags then.
_SETTINGS = load_settings()
_PREFIX = _SETTINGS.asset_prefix

GROUP = "login_ingest"
INSIGHTS = "login_insights"
ARCHIVE = "login_archive"
OWNERS = ["team:data-engineering"]
CHAIN = ("raw_sqs_messages", "validated_logins", "rejected_logins", "masked_logins", "user_logins_table")
"""The assets of one step, in the order of the data. They are materialized together or not at all."""


def days_from(first: date, *, over: bool = False) -> dg.DailyPartitionsDefinition:
    """Return the partitions of the daily assets from a day to today, or to yesterday if ``over`` is True.

    A login's day is the UTC date of its SentTimestamp. Today grows: it is computed again, and archived when complete.
    """
    return dg.DailyPartitionsDefinition(start_date=first.isoformat(), timezone="UTC", end_offset=0 if over else 1)


DAYS = days_from(date(2025, 1, 1))
"""The partitions in the assets' declarations. The final definitions begin with `first_day`."""

DAYS_THAT_ARE_OVER = days_from(date(2025, 1, 1), over=True)
"""The partitions in the archive's declaration."""


def first_day(settings: Settings) -> date:
    """Return the first day of the daily assets: LOGINPIPE_FIRST_DAY, or by default the first day of last month."""
    last_month = datetime.now(UTC).date().replace(day=1) - timedelta(days=1)
    return settings.first_day or last_month.replace(day=1)


COUNTED_IN_TIME = dg.FreshnessPolicy.cron("0 2 * * *", timedelta(hours=2))
"""Yesterday is counted once more when it is complete, by 02:00 UTC, even without logins."""

ARCHIVED_IN_TIME = dg.FreshnessPolicy.cron("0 8 * * *", timedelta(hours=6))
"""Yesterday is archived at night by the job of 02:00 UTC, which may last six hours."""

DOWNSTREAM_TAG = "loginpipe/downstream"
"""Run tag of downstream jobs with the job's name. ``dagster.yaml`` limits the runs of each job and of all together."""


LOCATION_TAGS = {"loginpipe/location": _SETTINGS.queue_name}
"""Run tags that separate the downstream jobs of this code location from those of others, by its queue."""


def downstream_tags(job: str, *, longest_seconds: int) -> dict[str, str]:
    """Return the tags of a job that must never delay ingestion. Dagster ends a run after `longest_seconds`."""
    # Runs launched by a person have priority 0: before these, after ingestion.
    return {DOWNSTREAM_TAG: job, **LOCATION_TAGS, "dagster/priority": "-1", "dagster/max_runtime": str(longest_seconds)}


def downstream_job(op: dg.OpDefinition, name: str, *, description: str, longest_seconds: int) -> dg.JobDefinition:
    """Return a job of one op that must never delay ingestion."""
    tags = downstream_tags(name, longest_seconds=longest_seconds)
    return dg.GraphDefinition(name, node_defs=[op]).to_job(description=description, tags=tags)


def daily_schedule(name: str, job: str, cron: str, description: str) -> dg.ScheduleDefinition:
    """Return a schedule that is on by default. `cron` is in UTC."""
    return dg.ScheduleDefinition(
        name=name,
        job_name=job,
        cron_schedule=cron,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=description,
    )


RUNBOOK_SECTIONS = {
    "raw_sqs_messages": "nothing-arrives",
    "validated_logins": "rejected-messages",
    "rejected_logins": "rejected-messages",
    "masked_logins": "keys-and-tokens",
    "user_logins_table": "a-run-fails",
    "duplicate_devices": "duplicates-and-daily-counts",
    "duplicate_ips": "duplicates-and-daily-counts",
    "daily_logins": "duplicates-and-daily-counts",
    "login_archive": "archive-and-retention",
}
"""Asset → the runbook section for its problems."""


def asset_key(name: str) -> dg.AssetKey:
    """Return the key of one of our assets: its name, after LOGINPIPE_ASSET_PREFIX if that is set.

    If assets of two code locations have equal keys, Dagster mixes up their materializations, checks and alerts.
    """
    return dg.AssetKey([_PREFIX, name] if _PREFIX else [name])


LOGIN_ARCHIVE = asset_key("login_archive")


def runbook_link(anchor: str) -> dg.MetadataValue[str | None]:
    """Return a runbook section's location, such as ``dead-letters``, as metadata: a link if it is a URL, else text."""
    where = runbook(anchor)
    return dg.MetadataValue.url(where) if where.startswith("http") else dg.MetadataValue.text(where)


def check_result(
    section: str,
    passed: bool,
    description: str,
    metadata: Mapping[str, Any] | None = None,
    *,
    of: dg.AssetCheckSpec | dg.AssetCheckKey | None = None,
    warns: bool = False,
) -> dg.AssetCheckResult:
    """Return the result of a check, with a link to a section of the runbook.

    `warns` makes a failure a warning. `of` is needed outside of the function of a check.
    """
    return dg.AssetCheckResult(
        check_name=of.name if of else None,
        asset_key=of.asset_key if of else None,
        passed=passed,
        severity=dg.AssetCheckSeverity.WARN if warns else dg.AssetCheckSeverity.ERROR,
        description=description,
        metadata={**(metadata or {}), "runbook": runbook_link(section)},
    )


def evaluation(of: dg.AssetCheckKey, result: dg.AssetCheckResult) -> dg.AssetCheckEvaluation:
    """Return a check result as an evaluation, for reports outside of the check and its asset."""
    return dg.AssetCheckEvaluation(
        asset_key=of.asset_key,
        check_name=of.name,
        passed=result.passed,
        severity=result.severity,
        description=result.description,
        metadata=result.metadata,
    )


PII = "loginpipe/pii"
"""Column tag: ``clear`` (in memory only), ``sealed`` or ``token``."""

# Type, meaning and, for personal data, kind.
_COLUMNS: dict[str, tuple[str, ...]] = {
    "message_id": ("uuid", "SQS message id: the deduplication key"),
    "sent_at": ("timestamp (UTC)", "SentTimestamp of the message: the time of the login"),
    "received_at": ("timestamp (UTC)", "When this run received the message"),
    "receive_count": ("integer", "How often SQS has delivered the message"),
    "body_intact": ("boolean", "The body's MD5 is the one SQS computed"),
    "user_id": ("varchar(128)", "As received"),
    "device_type": ("varchar(32)", "As received"),
    "locale": ("varchar(32)", "As received, or NULL"),
    "app_version": ("integer", "1,000,000 major + 1,000 minor + patch; `loginpipe.app_version_text` decodes it"),
    "create_date": ("date", "UTC date of the login"),
    "users": ("integer", "Distinct users"),
    "logins": ("bigint", "Logins"),
    "first_date": ("date", "UTC date of the first login"),
    "last_date": ("date", "UTC date of the last login"),
    "reasons": ("text[]", "Reason codes"),
    "fields": ("text[]", "The field that each reason is about"),
    "body": ("text", "The message as received", "clear"),
    "ip": ("text", "IPv4 or IPv6 address", "clear"),
    "device_id": ("text", "Device id", "clear"),
    "masked_ip": (
        "varchar(256)",
        "Token of the canonical address: `ip.v1.` (1 is the key version) and 43 characters",
        "token",
    ),
    "masked_device_id": ("varchar(256)", "Token of the canonical device id: `dev.v1.` and 43 characters", "token"),
    "sealed_body": ("bytea", "The message as received, sealed with the public key", "sealed"),
}


def column_schema(*names: str) -> dict[str, dg.TableSchema]:
    """Return the metadata entry that shows these columns in the UI."""
    return {"dagster/column_schema": dg.TableSchema([_column(name) for name in names])}


def column_lineage(upstream: str, sources: Mapping[str, str]) -> dict[str, dg.TableColumnLineage]:
    """Return the metadata entry that shows where columns come from: column → its source in the upstream asset."""
    key = asset_key(upstream)
    return {
        "dagster/column_lineage": dg.TableColumnLineage(
            {column: [dg.TableColumnDep(key, source)] for column, source in sources.items()}
        )
    }


def _column(name: str) -> dg.TableColumn:
    type_, meaning, *kind = _COLUMNS[name]
    return dg.TableColumn(name, type_, meaning, tags={PII: kind[0]} if kind else None)


_MAX_INLINE = 999
_MAX_BARS = 24
_MAX_LABEL = 16
# Characters. A line of 44 fills the UI's value column in a window of 1400 pixels.
_MAX_BAR = 20


def bar_plot(title: str, counts: Mapping[str, float]) -> dg.MarkdownMetadataValue:
    """Draw counts, which are not negative, as horizontal bars in the given order. Draw only the first 24.

    The title should name the unit.
    """
    left_out = len(counts) - _MAX_BARS
    head = f"**{title}**{f' (and {left_out} more)' if left_out > 0 else ''}\n```text\n"
    room = (_MAX_INLINE - len(head) - len("```")) // max(1, min(len(counts), _MAX_BARS))
    return dg.MetadataValue.md(f"{head}{bars(counts, line_most=room - 1)}```")


def bars(counts: Mapping[str, float], *, line_most: int) -> str:
    """Return a line per count: name, bar in proportion to the largest count, count. `line_most` is at least 30."""
    shown = [(_plain(name), count, f"{count:,.6g}") for name, count in islice(counts.items(), _MAX_BARS)]
    label = max((len(name) for name, _, _ in shown), default=0)
    number = max((len(text) for _, _, text in shown), default=0)
    most = max((count for _, count, _ in shown), default=0) or 1
    room = min(_MAX_BAR, line_most - label - number - 2)
    # A small positive count is still visible.
    drawn = ("█" * round(count / most * room) or ("▏" if count > 0 else "") for _, count, _ in shown)
    return "".join(f"{name:>{label}} {bar} {text}\n" for (name, _, text), bar in zip(shown, drawn, strict=True))


def _plain(name: str) -> str:
    """Return a name without line breaks and backquotes, which would end the text block. Senders choose some names."""
    name = "".join(character if character.isprintable() and character != "`" else "·" for character in name)
    return name if len(name) <= _MAX_LABEL else f"{name[: _MAX_LABEL - 1]}…"
