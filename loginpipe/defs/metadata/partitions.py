"""The days that the assets after ``user_logins`` are partitioned by."""

import dagster as dg

# A login's day is the UTC date of its SentTimestamp. Today is one of the days: it grows, and is computed anew.
DAYS = dg.DailyPartitionsDefinition(start_date="2025-01-01", timezone="UTC", end_offset=1)
