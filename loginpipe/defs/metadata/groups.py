"""Define what assets have in common: groups, owners, daily partitions, and their sections of the runbook."""

from datetime import UTC, date, datetime, timedelta

import dagster as dg

from loginpipe.common.runbook import runbook
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
    return {
        DOWNSTREAM_TAG: job,
        **LOCATION_TAGS,
        "dagster/priority": "-1",
        "dagster/max_runtime": str(longest_seconds),
    }


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
