"""Links from assets and checks to the runbook."""

import dagster as dg

from loginpipe.common.runbook import runbook

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
