"""Define the table ``user_logins``: its columns, which are a contract, and its place.

Queries and loaders of others depend on the columns, so they change only for their benefit. The schema of the table is a
setting, LOGINPIPE_TABLE; its name is always ``user_logins``.
"""

import re

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


DEFAULT_TABLE = "public.user_logins"

TABLE_PATTERN = re.compile(r"(?!(?:pg_\w*|information_schema|loginpipe|vault)\.)[a-z_][a-z0-9_]{0,62}\.user_logins")
"""Plain identifiers only, because the name goes into SQL unquoted."""
TABLE_RULE = (
    "must be SCHEMA.user_logins, as in analytics.user_logins: the schema in lower-case letters, digits and _, and "
    "not one of Postgres' or of loginpipe's own"
)

_chosen = {"table": DEFAULT_TABLE}


def use_logins_table(name: str) -> None:
    """Choose the table for the whole process, by valid schema and name.

    One process serves one warehouse. At every start, before anything is received, the choice is compared with the
    table that the database was migrated for.
    """
    _chosen["table"] = name


def logins_table() -> str:
    """Return schema and name of the table. They need no quotes in SQL."""
    return _chosen["table"]


def logins_schema() -> str:
    """Return the schema of the table."""
    return _chosen["table"].split(".")[0]
