"""Write and read a day's rows as a Parquet file, one row group at a time, and compute the checksum of rows."""

from collections.abc import Iterable, Iterator
from datetime import date
from hashlib import file_digest, sha256
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from loginpipe.common.errors import ArchivedDayError, ArchiveError
from loginpipe.common.logins_table import USER_LOGINS_COLUMNS

if TYPE_CHECKING:
    import pyarrow as pa

Row: TypeAlias = tuple[str | None, str | None, str | None, str | None, str | None, int | None, date]
"""A row of ``user_logins``, with the columns of `loginpipe.common.logins_table.USER_LOGINS_COLUMNS` in order."""

_BLOCK = 65_536


class Digest:
    """Counts and hashes rows."""

    def __init__(self) -> None:
        self.rows = 0
        self._blocks = sha256()
        self._block = sha256()

    def add(self, rows: Iterable[Row]) -> None:
        """Add rows, sorted by their columns in order: text by code point, NULL first."""
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


ROWS_AT_ONCE = 10_000
"""Maximum rows in memory as Python objects. A row takes a kilobyte like that, and a sixth of that in Arrow."""
_ROWS_A_GROUP = 100_000


class Content(NamedTuple):
    """The content of a file. ``sha256`` is the checksum of its rows, see `Digest`."""

    row_count: int
    sha256: str
    file_bytes: int
    file_sha256: str


def write_day(path: Path, day: date, batches: Iterable[list[Row]]) -> Content:
    """Write the rows of a day to a file, and overwrite existing content.

    The batches have at most `ROWS_AT_ONCE` rows each, in the order that `Digest` needs.

    Raises:
        ArchiveError: pyarrow is not installed.
    """
    arrow, parquet = _pyarrow()
    digest, schema = Digest(), _schema(arrow)
    with parquet.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
        for group in _groups(batches):
            table = []
            for rows in group:
                digest.add(rows)
                columns = [arrow.array(c, field.type) for c, field in zip(zip(*rows, strict=True), schema, strict=True)]
                table.append(arrow.record_batch(columns, schema=schema))
            writer.write_table(arrow.Table.from_batches(table), row_group_size=_ROWS_A_GROUP)
        writer.add_key_value_metadata(
            {
                "loginpipe.day": day.isoformat(),
                "loginpipe.row_count": str(digest.rows),
                "loginpipe.rows_sha256": digest.hexdigest(),
                # Raise it when the columns or their types change.
                "loginpipe.schema_version": "1",
                "loginpipe.version": version("loginpipe"),
            }
        )
    return Content(digest.rows, digest.hexdigest(), path.stat().st_size, file_sha256_of(path))


def read_day(path: Path) -> Iterator[list[Row]]:
    """Yield the rows of a file in batches, in the order of writing.

    Raises:
        ArchivedDayError: the file is damaged, or no Parquet file of loginpipe.
    """
    arrow, parquet = _pyarrow()
    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            if not file.schema_arrow.equals(_schema(arrow)):
                raise ArchivedDayError("its columns are not those of user_logins")
            # iter_batches() would keep everything that it has read until the end.
            for group in range(file.num_row_groups):
                for batch in file.read_row_group(group).to_batches(max_chunksize=ROWS_AT_ONCE):
                    yield list(zip(*(column.to_pylist() for column in batch.columns), strict=True))
    # Arrow's errors may quote data.
    except (arrow.ArrowException, OSError, ValueError):
        raise ArchivedDayError("it cannot be read as Parquet") from None


def users_of(path: Path) -> Iterator[list[str]]:
    """Yield the user ids of a file in parts, possibly with repetitions. Read only that column. Raise as `read_day`."""
    arrow, parquet = _pyarrow()
    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):
                users = file.read_row_group(group, columns=["user_id"]).column("user_id").unique()
                yield [user or "" for user in users.to_pylist()]
    except (arrow.ArrowException, KeyError, OSError, ValueError):
        raise ArchivedDayError("it cannot be read as Parquet") from None


def content_of(path: Path) -> Content:
    """Return the content of a file by reading it all. Raise as `read_day`."""
    digest = Digest()
    for rows in read_day(path):
        digest.add(rows)
    return Content(digest.rows, digest.hexdigest(), path.stat().st_size, file_sha256_of(path))


def _groups(batches: Iterable[list[Row]]) -> Iterator[Iterator[list[Row]]]:
    """Split the batches into row groups without holding a whole group."""
    remaining = iter(batches)
    for first in remaining:
        yield chain([first], islice(remaining, _ROWS_A_GROUP // ROWS_AT_ONCE - 1))


def file_sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _schema(arrow: Any) -> "pa.Schema":
    types = {"integer": arrow.int32(), "date": arrow.date32()}
    return arrow.schema([(name, types.get(kind, arrow.string())) for name, kind in USER_LOGINS_COLUMNS])


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise ArchiveError("the archive needs pyarrow: run `pip install 'loginpipe[archive]'`") from None
    return pa, parquet
