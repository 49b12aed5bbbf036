"""The domain: what a login event is and when it is a good one. Pure: no Dagster, no network, no database."""
