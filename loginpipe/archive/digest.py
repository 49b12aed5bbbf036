"""The checksum of a day's rows, whatever file or table they are in. Pure.

SHA-256 over the digests of blocks, each SHA-256 over the digests of 65,536 rows in order. A row's digest is SHA-256 of
its columns, each as its length in characters, a colon and the text, or ``-`` for NULL. ``loginpipe.logins_by_day``
(migration 0005) computes the same in the database, so that the two can be compared without moving a row.
"""

from collections.abc import Iterable
from datetime import date
from hashlib import sha256
from typing import TypeAlias

Row: TypeAlias = tuple[str | None, str | None, str | None, str | None, str | None, int | None, date]
"""A row of ``user_logins``: the columns of `loginpipe.logins.user_logins.USER_LOGINS_COLUMNS`, in that order."""

_BLOCK = 65_536


class Digest:
    """Takes rows in order; knows how many there were and what they hash to."""

    def __init__(self) -> None:
        self.rows = 0
        self._blocks = sha256()
        self._block = sha256()

    def add(self, rows: Iterable[Row]) -> None:
        """Take more rows, in the order of their columns: text by code point, NULL first."""
        for row in rows:
            line = "".join("-" if value is None else f"{len(text := str(value))}:{text}" for value in row)
            self._block.update(sha256(line.encode()).digest())
            self.rows += 1
            if self.rows % _BLOCK == 0:
                self._blocks.update(self._block.digest())
                self._block = sha256()

    def hexdigest(self) -> str:
        """Return the checksum of the rows so far, 64 hex digits."""
        blocks = self._blocks.copy()
        if self.rows % _BLOCK:
            blocks.update(self._block.digest())
        return blocks.hexdigest()
