"""What the assets have in common."""

GROUP = "login_ingest"
INSIGHTS = "login_insights"
ARCHIVE = "login_archive"
OWNERS = ["team:data-engineering"]
CHAIN = ("raw_sqs_messages", "validated_logins", "rejected_logins", "masked_logins", "user_logins_table")
"""The assets of one run, in the order the data flows. They are run together or not at all."""
