"""Rows as Postgres' COPY text format, and the COPY itself."""

from collections.abc import Iterable, Sequence
from io import BytesIO
from typing import Any, Final

from psycopg2 import sql

from loginpipe.postgres.connections import Cursor

_ESCAPES: Final = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def copy_text(value: object) -> str:
    """Return a value as COPY's text format writes it; None is NULL, an empty text stays one, a list is an array."""
    if value is None:
        return "\\N"
    if isinstance(value, str):
        return value.translate(_ESCAPES)
    if isinstance(value, bytes):
        return "\\\\x" + value.hex()
    if isinstance(value, list):
        return _array_text(value).translate(_ESCAPES)
    return str(value)


def _array_text(values: Iterable[str]) -> str:
    quoted = ('"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' for value in values)
    return "{" + ",".join(quoted) + "}"


def copy_rows(cursor: Cursor, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Copy rows into a table, ``schema.table`` or one of the session."""
    text = "".join("\t".join(map(copy_text, row)) + "\n" for row in rows)
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(*table.split(".")), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    cursor.copy_expert(statement, BytesIO(text.encode()))
