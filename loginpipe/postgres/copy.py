"""Convert rows to Postgres' COPY text format, and copy them."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from typing import Any

from psycopg2 import sql

from loginpipe.postgres.connections import Cursor

_CHUNK_BYTES = 1 << 16
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def copy_text(value: object) -> str:
    """Return a value in COPY's text format: None as NULL, an empty text as such, a list as an array."""
    if value is None:
        return "\\N"
    if isinstance(value, str):
        return value.translate(_ESCAPES)
    if isinstance(value, bytes):
        return "\\\\x" + value.hex()
    if isinstance(value, list):
        quoted = ('"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' for text in value)
        return ("{" + ",".join(quoted) + "}").translate(_ESCAPES)
    return str(value)


def copy_rows(cursor: Cursor, table: str, names: Sequence[str], columns: Iterable[Sequence[Any]]) -> None:
    """Copy rows, given by column, into a table: ``schema.table`` or a temporary one.

    They are written as they are read, so that a batch of large values is not in memory twice. ``columns`` has the
    values of each column of ``names``; for rows, pass ``zip(*rows)``.
    """
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(*table.split(".")), sql.SQL(", ").join(map(sql.Identifier, names))
    )
    lines = map("\t".join, zip(*map(_texts, columns), strict=True))
    # The stubs demand readline(), but COPY FROM calls read() only.
    cursor.copy_expert(statement, _Stream(lines), size=_CHUNK_BYTES)  # type: ignore[arg-type]


def _texts(column: Sequence[Any]) -> Iterable[str]:
    """Return `copy_text` of each value, in the fastest way for the types in the column."""
    kinds = set(map(type, column))
    if kinds == {int}:
        return map(str, column)
    if kinds == {bytes}:
        return map("\\\\x".__add__, map(bytes.hex, column))
    if kinds == {date}:
        of_day = {day: str(day) for day in set(column)}
        return map(of_day.__getitem__, column)
    if kinds <= {str, type(None)}:
        together = "".join(filter(None, column))
        if not any(escaped in together for escaped in "\\\t\n\r"):
            return column if kinds == {str} else ["\\N" if text is None else text for text in column]
    return map(copy_text, column)


class _Stream:
    """Lines as the file that COPY reads."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._rest = b""

    def read(self, size: int) -> bytes:
        """Return at most ``size`` bytes; none at the end."""
        lines, length = [], len(self._rest)
        while length < size and (line := next(self._lines, None)) is not None:
            lines.append(line)
            length += len(line) + 1
        data = self._rest + "\n".join([*lines, ""]).encode()
        self._rest = data[size:]
        return data[:size]
