"""Define a login event and when it is valid. Pure: no Dagster, no network, no database."""
