"""Find erased users in the archive by their tombstones, and remove them from the files of dropped days."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, datetime
from pathlib import Path

from loginpipe.archive.days import stored_file, strays
from loginpipe.archive.parquet import Row, read_day, users_of
from loginpipe.archive.store import Stores
from loginpipe.archive.verification import require_same_bytes
from loginpipe.common.errors import ArchivedDayError
from loginpipe.masking.tokens import TokenKeys
from loginpipe.postgres.archive import archived_day, mark_unchanged, record_rewritten, work_on_day
from loginpipe.postgres.connections import Connection
from loginpipe.postgres.erasures import Tombstone, erasures_so_far, require_no_erasure_since, tombstones_since


def require_keys_for(tombstones: Sequence[Tombstone], keys: TokenKeys) -> None:
    """Check that each erasure left a tombstone of a key version that is available.

    Raises:
        ArchivedDayError: an erasure did not. The message names the key versions that are needed.
    """
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


def without_erased(path: Path, tombstones: Iterable[Tombstone], keys: TokenKeys) -> Iterator[list[Row]]:
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
        if not tombstones:
            return 0
        keys = token_keys()
        require_keys_for(tombstones, keys)
        before, name = stores.locate(record.url)
        with before.fetched(name) as path:
            require_same_bytes(path, record)
            if _has_any(path, tombstones, keys):
                kept = without_erased(path, tombstones, keys)
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


def _has_any(path: Path, tombstones: Sequence[Tombstone], keys: TokenKeys) -> bool:
    gone = {tombstone.tombstone for tombstone in tombstones}
    found = (each for users in users_of(path) for each in keys.tombstones_of_all(users).values())
    return not all(map(gone.isdisjoint, found))
