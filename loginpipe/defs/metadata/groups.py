"""What the assets have in common: groups, owners, daily partitions, and the section of the runbook for each."""

from datetime import UTC, date, datetime, timedelta

import dagster as dg

from loginpipe.common.runbook import runbook
from loginpipe.common.settings import Settings, load_settings

# Of the process, as a code location is one: Dagster's decorators want keys and tags when a module is imported.
_SETTINGS = load_settings()
_PREFIX = _SETTINGS.asset_prefix

GROUP = "login_ingest"
INSIGHTS = "login_insights"
ARCHIVE = "login_archive"
OWNERS = ["team:data-engineering"]
CHAIN = ("raw_sqs_messages", "validated_logins", "rejected_logins", "masked_logins", "user_logins_table")
"""The assets of one step, in the order the data flows. They are materialized together or not at all."""


def days_from(first: date, *, over: bool = False) -> dg.DailyPartitionsDefinition:
    """Return the partitions of the daily assets, from a day to today, or to yesterday: to the last day that is over.

    A login's day is the UTC date of its SentTimestamp. Today grows: it is computed again, and archived when it is over.
    """
    return dg.DailyPartitionsDefinition(start_date=first.isoformat(), timezone="UTC", end_offset=0 if over else 1)


DAYS = days_from(date(2025, 1, 1))
"""What the daily assets are declared with; the definitions begin with `first_day`."""

DAYS_THAT_ARE_OVER = days_from(date(2025, 1, 1), over=True)
"""Those of the archive."""


def first_day(settings: Settings) -> date:
    """Return the first day of the daily assets: LOGINPIPE_FIRST_DAY, or else the first one of last month."""
    last_month = datetime.now(UTC).date().replace(day=1) - timedelta(days=1)
    return settings.first_day or last_month.replace(day=1)


COUNTED_IN_TIME = dg.FreshnessPolicy.cron("0 2 * * *", timedelta(hours=2))
"""Yesterday is counted once more when it is over, with logins or without: by 02:00 UTC."""

ARCHIVED_IN_TIME = dg.FreshnessPolicy.cron("0 8 * * *", timedelta(hours=6))
"""Yesterday is archived in the night, by the job of 02:00 UTC, which is ended after six hours."""

DOWNSTREAM_TAG = "loginpipe/downstream"
"""Run tag of the jobs after the chain, with the job's name: ``dagster.yaml`` limits the runs of each, and of all."""


LOCATION_TAGS = {"loginpipe/location": _SETTINGS.queue_name}
"""Run tags that tell the downstream jobs of this code location from those of another one, by its queue."""


def downstream_tags(job: str, *, longest_seconds: int) -> dict[str, str]:
    """Return the tags of a job that must never delay ingestion.

    Args:
        job: its name.
        longest_seconds: a run that takes longer is ended.
    """
    # What a person launches has priority 0: before these, and after ingestion.
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
"""Asset → the section of the runbook to open when something is wrong with it."""


def asset_key(name: str) -> dg.AssetKey:
    """Return the key of one of our assets: its name, behind LOGINPIPE_ASSET_PREFIX where that is set.

    Dagster takes assets of two code locations for one asset where their keys are equal: materializations, check
    results and the alerts that follow from these.
    """
    return dg.AssetKey([_PREFIX, name] if _PREFIX else [name])


LOGIN_ARCHIVE = asset_key("login_archive")


def runbook_link(anchor: str) -> dg.MetadataValue[str | None]:
    """Return where a section is, as metadata: a link where there is something to follow.

    Args:
        anchor: of the section's heading, as in ``dead-letters``.
    """
    where = runbook(anchor)
    return dg.MetadataValue.url(where) if where.startswith("http") else dg.MetadataValue.text(where)
