"""The SQL statements in the folder ``sql``, by name."""

from functools import cache
from importlib.resources import files


@cache
def statement(name: str) -> str:
    """Return the text of ``sql/<name>.sql``."""
    return (files("loginpipe.postgres") / "sql" / f"{name}.sql").read_text(encoding="utf-8")
