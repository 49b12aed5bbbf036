"""The contract of the table ``user_logins``: its columns, their order and their types.

Queries and loaders of others depend on it, so it is defined in one place and changes only for their benefit.
"""

USER_LOGINS_COLUMNS: tuple[tuple[str, str], ...] = (
    ("user_id", "character varying(128)"),
    ("device_type", "character varying(32)"),
    ("masked_ip", "character varying(256)"),
    ("masked_device_id", "character varying(256)"),
    ("locale", "character varying(32)"),
    ("app_version", "integer"),
    ("create_date", "date"),
)
"""Name and Postgres type (as ``format_type`` prints it) of each column, in order."""

COLUMN_NAMES = tuple(name for name, _ in USER_LOGINS_COLUMNS)
"""The names of the columns."""
