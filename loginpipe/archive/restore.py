"""Restore days from the archive to ``user_logins``, without the users who were erased since.

Erased users are found by their tombstones, and are also removed from the files of dropped days.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path

from loginpipe.archive.days import require_same_bytes, require_whole, stored_file, strays
from loginpipe.archive.parquet import Row, read_day, users_of
from loginpipe.archive.store import Stores
from loginpipe.common.errors import ArchivedDayError
from loginpipe.common.logins_table import COLUMN_NAMES, logins_table
from loginpipe.masking.tokens import TokenKeys
from loginpipe.postgres.archive import (
    ArchivedDay,
    archived_day,
    content_in_table,
    mark_restored,
    mark_unchanged,
    record_rewritten,
    work_on_day,
)
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
    return _Plan(record, erasures, tombstones, _keys_for(tombstones, token_keys))


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
        for batch in _without_erased(path, plan.tombstones, plan.keys) if plan.keys else read_day(path):
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


def _keys_for(tombstones: Sequence[Tombstone], token_keys: Callable[[], TokenKeys]) -> TokenKeys | None:
    """Return keys with a version of each erasure's tombstones, or None without erasures.

    Raises:
        ArchivedDayError: an erasure left no such tombstone. The message names the key versions that are needed.
    """
    if not tombstones:
        return None
    keys = token_keys()
    # The tombstones of one erasure, one per version of the token key, have the same time.
    erasures: dict[datetime, set[int]] = {}
    for tombstone in tombstones:
        erasures.setdefault(tombstone.erased_at, set()).add(tombstone.key_version)
    for erased_at, versions in sorted(erasures.items()):
        if versions.isdisjoint(keys.field_keys):
            named = " or ".join(map(str, sorted(versions)))
            raise ArchivedDayError(
                f"a user was erased at {erased_at:%Y-%m-%d %H:%M:%S} UTC, and could come back: they can be "
                f"told with token key version {named} only; add it to LOGINPIPE_TOKEN_KEYS"
            )
    return keys


def _without_erased(path: Path, tombstones: Iterable[Tombstone], keys: TokenKeys) -> Iterator[list[Row]]:
    """Yield the rows of a file without those of erased users. A tombstone of any key version counts.

    The file matched the table before these users were erased.
    """
    gone = {tombstone.tombstone for tombstone in tombstones}
    for rows in read_day(path):
        users = {row[0] or "" for row in rows}
        erased = {user for user in users if not gone.isdisjoint(keys.tombstones(user).values())}
        kept = [row for row in rows if (row[0] or "") not in erased]
        if kept:
            yield kept


def forget_erased(connection: Connection, *, day: date, token_keys: Callable[[], TokenKeys], stores: Stores) -> int:
    """Rewrite the file of a dropped day without the users who were erased since it was last searched.

    The new file is read back and recorded. Then the old file and the leftovers of killed runs are deleted, and only
    then the day counts as searched. A file without any of these users stays unchanged. ``token_keys`` is called only if
    users were erased. Return the number of logins removed.

    Raises:
        ArchivedDayError: the file is missing or damaged; the new one does not read back; or the keys cannot identify an
            erased user.
        DatabaseError: also if the day is being archived or restored, or a user was erased during this call.
    """
    with work_on_day(connection, day) as cursor:
        erasures = erasures_so_far(cursor)
        record = archived_day(cursor, day)
        if record is None or record.dropped_at is None:
            return 0
        tombstones = tombstones_since(cursor, record.same_at)
        keys = _keys_for(tombstones, token_keys)
        if keys is None:
            return 0
        before, name = stores.locate(record.url)
        with before.fetched(name) as path:
            require_same_bytes(path, record)
            gone = {tombstone.tombstone for tombstone in tombstones}
            found = (each for users in users_of(path) for each in keys.tombstones_of_all(users).values())
            if not all(map(gone.isdisjoint, found)):
                kept = _without_erased(path, tombstones, keys)
                record_rewritten(cursor, **stored_file(stores.current, day, kept))
        rewritten = archived_day(cursor, day) or record
    if rewritten.url != record.url:
        before.delete(name)
    with work_on_day(connection, day) as cursor:
        require_no_erasure_since(cursor, erasures)
        # Only if it was not restored in the meantime.
        if archived_day(cursor, day) == rewritten:
            for stray in strays(stores.current, rewritten):
                stores.current.delete(stray)
            mark_unchanged(cursor, day)
    return record.row_count - rewritten.row_count
