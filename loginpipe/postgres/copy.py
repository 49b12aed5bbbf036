"""Rows as Postgres' COPY text format, and the COPY itself."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from psycopg2 import sql

from loginpipe.postgres.connections import Cursor

_CHUNK_BYTES: Final = 1 << 16
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
    """Copy rows into a table, ``schema.table`` or one of the session; they are written as they are read."""
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(*table.split(".")), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    lines = (("\t".join(map(copy_text, row)) + "\n").encode() for row in rows)
    # Typed as if COPY FROM called readline() too; it calls read() only.
    cursor.copy_expert(statement, _Stream(lines), size=_CHUNK_BYTES)  # type: ignore[arg-type]


class _Stream:
    """Lines as the file that COPY reads from: a batch of large messages is never in memory twice."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._lines = lines
        self._rest = b""

    def read(self, size: int) -> bytes:
        """Return at most ``size`` bytes; none at the end."""
        parts, length = [self._rest], len(self._rest)
        while length < size and (line := next(self._lines, b"")):
            parts.append(line)
            length += len(line)
        text = b"".join(parts)
        self._rest = text[size:]
        return text[:size]
