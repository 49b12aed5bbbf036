"""What the assets have in common."""

from typing import Final

GROUP: Final = "login_ingest"
INSIGHTS: Final = "login_insights"
ARCHIVE: Final = "login_archive"
OWNERS: Final = ["team:data-engineering"]
CHAIN: Final = ("raw_sqs_messages", "validated_logins", "rejected_logins", "masked_logins", "user_logins_table")
"""The assets of one run, in the order the data flows. They are run together or not at all."""

RUNBOOK_SECTIONS: Final = {
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
