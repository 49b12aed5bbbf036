"""The contract of the table ``user_logins``: its columns, their order and their types.

Other people's queries and loaders depend on it, so it lives in one place and changes only with a reason that helps
them.
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
"""Their names alone."""
