"""What the assets have in common."""

from typing import Final

GROUP: Final = "login_ingest"
INSIGHTS: Final = "login_insights"
ARCHIVE: Final = "login_archive"
OWNERS: Final = ["team:data-engineering"]
CHAIN: Final = ("raw_sqs_messages", "validated_logins", "rejected_logins", "masked_logins", "user_logins_table")
"""The assets of one run, in the order the data flows. They are run together or not at all."""
