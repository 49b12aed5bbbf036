"""Whether a day's file is still what was recorded when it was written."""

from pathlib import Path

from loginpipe.archive.parquet import Content, content_of, file_sha256_of
from loginpipe.archive.store import Stores
from loginpipe.common.errors import ArchivedDayError
from loginpipe.postgres.archive import ArchivedDay, mark_verified
from loginpipe.postgres.connections import Connection, transaction


def verify_day(connection: Connection, *, record: ArchivedDay, stores: Stores) -> str | None:
    """Read a day's file back, compare it with its record, and put down whether it is whole.

    Args:
        connection: with no transaction open.
        record: of the day.
        stores: to find it in.

    Returns:
        What is wrong with it; None where it is whole.

    Raises:
        ArchiveError: the store cannot be used.
        DatabaseError: nothing was put down.
    """
    fault = fault_of(record, stores)
    with transaction(connection) as cursor:
        mark_verified(cursor, record.day, record.url, whole=fault is None)
    return fault


def fault_of(record: ArchivedDay, stores: Stores) -> str | None:
    """Read a day's file back and compare it with its record; return what is wrong with it, in words.

    Raises:
        ArchiveError: the store cannot be used.
    """
    store, name = stores.locate(record.url)
    try:
        with store.fetched(name) as path:
            require_whole(path, record)
    except ArchivedDayError as error:
        return str(error)
    return None


def require_whole(path: Path, record: ArchivedDay) -> None:
    """Compare a file with what is recorded of it.

    Raises:
        ArchivedDayError: it is another, or damaged.
    """
    recorded = Content(record.row_count, record.sha256, record.file_bytes, record.file_sha256)
    # Nobody decodes bytes that are not the ones that were written.
    if file_sha256_of(path) != record.file_sha256 or content_of(path) != recorded:
        raise ArchivedDayError(
            f"the file of {record.day} is damaged: its checksum is not the one recorded, {record.url}"
        )
