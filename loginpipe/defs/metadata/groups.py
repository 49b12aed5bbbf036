"""What the assets have in common: groups, owners, daily partitions, and the section of the runbook for each."""

import dagster as dg

from loginpipe.common.runbook import runbook

GROUP = "login_ingest"
INSIGHTS = "login_insights"
ARCHIVE = "login_archive"
OWNERS = ["team:data-engineering"]
CHAIN = ("raw_sqs_messages", "validated_logins", "rejected_logins", "masked_logins", "user_logins_table")
"""The assets of one step, in the order the data flows. They are materialized together or not at all."""

# A login's day is the UTC date of its SentTimestamp. Today is one of the days: it grows, and is computed anew.
DAYS = dg.DailyPartitionsDefinition(start_date="2025-01-01", timezone="UTC", end_offset=1)

DOWNSTREAM_TAG = "loginpipe/downstream"
"""Run tag of what comes after the chain, with the job's name: ``dagster.yaml`` limits these runs in all, and a job's."""


def downstream_tags(job: str, *, longest_seconds: int) -> dict[str, str]:
    """Return the tags of a job that must never be in ingestion's way.

    Args:
        job: its name.
        longest_seconds: a run that takes longer is ended.
    """
    # What a person launches has priority 0: before these, and after ingestion.
    return {DOWNSTREAM_TAG: job, "dagster/priority": "-1", "dagster/max_runtime": str(longest_seconds)}


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


def runbook_link(anchor: str) -> dg.MetadataValue[str | None]:
    """Return where a section is, as metadata: a link where there is something to follow.

    Args:
        anchor: of the section's heading, as in ``dead-letters``.
    """
    where = runbook(anchor)
    return dg.MetadataValue.url(where) if where.startswith("http") else dg.MetadataValue.text(where)
