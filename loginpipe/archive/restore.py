"""Restore days from the archive to ``user_logins``, except for users who were erased since."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from loginpipe.archive.erasure import require_keys_for, without_erased
from loginpipe.archive.parquet import read_day
from loginpipe.archive.store import Stores
from loginpipe.archive.verification import require_whole
from loginpipe.common.errors import ArchivedDayError
from loginpipe.common.logins_table import COLUMN_NAMES, logins_table
from loginpipe.masking.tokens import TokenKeys
from loginpipe.postgres.archive import ArchivedDay, archived_day, content_in_table, mark_restored, work_on_day
from loginpipe.postgres.connections import Connection, Cursor, transaction
from loginpipe.postgres.copy import copy_rows
from loginpipe.postgres.erasures import Tombstone, erasures_so_far, require_no_erasure_since, tombstones_since
from loginpipe.postgres.partitions import ensure_month

KEPT_DAYS = 30
"""How long a restored day is not dropped again."""


@dataclass(frozen=True)
class Restored:
    """The result of restoring a day, in rows.

    Attributes:
        rows: those inserted.
        erased: those left out because their users were erased after the file was written.
        beside: those that arrived after the day was dropped. They stay.
        already_there: True if the table already has exactly the rows of the file.
    """

    rows: int = 0
    erased: int = 0
    beside: int = 0
    already_there: bool = False


@dataclass(frozen=True)
class _Plan:
    record: ArchivedDay
    erasures: int
    tombstones: Sequence[Tombstone]
    keys: TokenKeys | None = field(repr=False)


def restore_day(
    connection: Connection,
    *,
    day: date,
    token_keys: Callable[[], TokenKeys],
    stores: Stores,
    dry_run: bool = False,
    progress: Callable[[int], object] = lambda _: None,
) -> Restored:
    """Restore a day in one transaction, or only return the result of that.

    If the month's partition was dropped, it is created first in a separate transaction, because loads wait for that.
    ``token_keys`` is called only if users were erased after the day was archived, ``progress`` with the number of rows
    of each batch.

    Raises:
        ArchivedDayError: the day is not archived; its file is missing or damaged; the table has other rows of the day;
            or the keys cannot identify an erased user.
    """
    plan = _plan(connection, day, token_keys)
    store, name = stores.locate(plan.record.url)
    with store.fetched(name) as path:
        require_whole(path, plan.record)
        if plan.record.dropped_at and not dry_run:
            ensure_month(connection, day)
        return _restored(connection, path, plan, dry_run=dry_run, progress=progress)


def _plan(connection: Connection, day: date, token_keys: Callable[[], TokenKeys]) -> _Plan:
    with transaction(connection) as cursor:
        erasures = erasures_so_far(cursor)
        record = archived_day(cursor, day)
        if record is None:
            raise ArchivedDayError(f"{day} is not in the archive: `loginpipe archive list` shows what is")
        tombstones = tombstones_since(cursor, record.same_at)
    keys = token_keys() if tombstones else None
    if keys:
        require_keys_for(tombstones, keys)
    return _Plan(record, erasures, tombstones, keys)


def _restored(
    connection: Connection, path: Path, plan: _Plan, *, dry_run: bool, progress: Callable[[int], object]
) -> Restored:
    day = plan.record.day
    with work_on_day(connection, day) as cursor:
        require_no_erasure_since(cursor, plan.erasures)
        if archived_day(cursor, day) != plan.record:
            raise ArchivedDayError(f"{day} was archived or restored by another process meanwhile: run this again")
        beside, already_there = _in_table(cursor, plan.record)
        if already_there:
            if not dry_run:
                mark_restored(cursor, day, kept_days=KEPT_DAYS, same=True)
            return Restored(already_there=True)
        rows = 0
        for batch in without_erased(path, plan.tombstones, plan.keys) if plan.keys else read_day(path):
            if not dry_run:
                copy_rows(cursor, logins_table(), COLUMN_NAMES, zip(*batch, strict=True))
            rows += len(batch)
            progress(len(batch))
        restored = Restored(rows, plan.record.row_count - rows, beside)
        if not dry_run:
            same = not restored.erased and not beside
            if same and not _in_table(cursor, plan.record)[1]:
                raise ArchivedDayError(f"{day} is not the same in user_logins as in its file: nothing was restored")
            mark_restored(cursor, day, kept_days=KEPT_DAYS, same=same)
        return restored


def _in_table(cursor: Cursor, record: ArchivedDay) -> tuple[int, bool]:
    """Return how many rows of the day the table has, and True if they are exactly those of the file."""
    rows, sha256 = content_in_table(cursor, record.day, record.day).get(record.day, (0, ""))
    if (rows, sha256) == (record.row_count, record.sha256) or not (rows or record.row_count):
        return rows, True
    # A dropped day left no rows in the table, so these rows arrived later.
    if rows and not record.dropped_at:
        raise ArchivedDayError(
            f"user_logins has {rows:,} rows of {record.day}, and not those of its file ({record.row_count:,}): "
            "nothing was restored; archive the day again, or delete these rows first"
        )
    return rows, False
