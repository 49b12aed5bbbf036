"""Write days to the archive, and drop months of the table that are archived in full."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias
from uuid import uuid4

from loginpipe.archive.parquet import ROWS_AT_ONCE, Row, content_of, write_day
from loginpipe.archive.store import Store, Stores
from loginpipe.archive.verification import problem_of, verify_day
from loginpipe.common.errors import ArchivedDayError
from loginpipe.postgres.archive import (
    ArchivedDay,
    archived_day,
    archived_days,
    content_in_table,
    days_between,
    drop_month,
    mark_unchanged,
    record_archived,
    stream_logins,
    work_on_day,
)
from loginpipe.postgres.connections import Connection, Cursor
from loginpipe.postgres.days import changes_of, record_changes
from loginpipe.postgres.erasures import erasures_so_far, require_no_erasure_since, tombstones_since
from loginpipe.postgres.partitions import Partition

_NOTHING = (0, "")
_OURS = re.compile(r"[._]{0,2}part-[0-9a-f]{32}\.parquet")


class Outcome(StrEnum):
    """The outcome of archiving a day."""

    WRITTEN = "written"
    UNCHANGED = "unchanged"
    DROPPED = "dropped before: in the archive only"


@dataclass(frozen=True)
class Archived:
    """A day in the archive."""

    record: ArchivedDay
    outcome: Outcome


def require_over(days: Iterable[date], today: date) -> None:
    """Raise ArchivedDayError if a day is not complete. The message names the first."""
    for day in sorted(days):
        if day >= today:
            raise ArchivedDayError(f"{day} is not over yet (UTC): archive the days up to the one before {today}")


def archive_day(connection: Connection, *, day: date, stores: Stores, today: date) -> Archived:
    """Archive a complete day, unless its file is intact and matches the table.

    A new file gets a new name, is read back, and only then recorded. The old file and the leftovers of a crash are
    deleted last. Until the record is committed, the old file is valid.

    Raises:
        ArchivedDayError: the day is not over; its file does not read back; rows arrived after it was dropped; or it has
            fewer rows than its file, though no user was erased.
        DatabaseError: also if another process works on the day, or a user was erased during this call.
    """
    require_over([day], today)
    store = stores.current
    with work_on_day(connection, day) as cursor:
        changes = changes_of(cursor, day)
        known = archived_day(cursor, day)
        if known and (settled := _settled(cursor, known, stores)):
            current = Archived(archived_day(cursor, day) or known, settled)
        else:
            current = Archived(_written(connection, cursor, day, store), Outcome.WRITTEN)
        # Listed while no other process can write files of this day.
        left_behind = strays(store, current.record)
        # Last, because every process that counts changes waits for this row until the commit.
        record_changes(cursor, "login_archive", day, changes)
    for name in left_behind:
        store.delete(name)
    if known and current.outcome == Outcome.WRITTEN:
        before, name = stores.locate(known.url)
        before.delete(name)
    return current


def _settled(cursor: Cursor, known: ArchivedDay, stores: Stores) -> Outcome | None:
    """Return the outcome for an archived day that needs no new file, or None if it needs one."""
    erasures = erasures_so_far(cursor)
    stored = content_in_table(cursor, known.day, known.day).get(known.day, _NOTHING)
    if known.dropped_at:
        if stored != _NOTHING:
            raise ArchivedDayError(
                f"{known.day} was dropped from user_logins, and {stored[0]:,} rows of it came since: run "
                f"`loginpipe archive restore {known.day}`, and archive it again"
            )
        return Outcome.DROPPED
    if stored[0] < known.row_count and not tombstones_since(cursor, known.archived_at):
        raise ArchivedDayError(
            f"{known.day} has {known.row_count - stored[0]:,} rows fewer than its archive, and no user was erased: "
            "its file stays; bring the rows back, or, if they are to be gone, its row of loginpipe.archived_days too"
        )
    same = stored == (known.row_count, known.sha256) or (stored == _NOTHING and not known.row_count)
    if not same or problem_of(known, stores):
        return None
    require_no_erasure_since(cursor, erasures)
    mark_unchanged(cursor, known.day)
    return Outcome.UNCHANGED


def _written(connection: Connection, cursor: Cursor, day: date, store: Store) -> ArchivedDay:
    # Read this first: an erasure after it changes the count, even if the user's rows were read before.
    erasures = erasures_so_far(cursor)
    values = stored_file(store, day, stream_logins(connection, day, rows_at_once=ROWS_AT_ONCE))
    require_no_erasure_since(cursor, erasures)
    recorded = record_archived(cursor, **values)
    record = archived_day(cursor, day)
    if not recorded or record is None:
        raise ArchivedDayError(
            f"{day} was dropped from user_logins while it was archived again: its earlier file stays"
        )
    return record


def stored_file(store: Store, day: date, batches: Iterable[list[Row]]) -> dict[str, Any]:
    """Write the rows of a day to a new file of the store, and read it back. `batches` are as for `write_day`.

    Returns:
        The arguments of `loginpipe.postgres.archive.record_archived`.

    Raises:
        ArchivedDayError: the file does not read back.
    """
    name = f"part-{uuid4().hex}.parquet"
    folder, hidden = f"day={day}", f"day={day}/_{name}"
    with TemporaryDirectory(prefix="loginpipe-") as scratch:
        path = Path(scratch) / name
        content = write_day(path, day, batches)
        # Readers of a folder skip names that begin with an underscore.
        store.put(path, hidden)
    with store.fetched(hidden) as path:
        if content_of(path) != content:
            raise ArchivedDayError(f"the file of {day} did not read back as it was written: run again")
    store.rename(hidden, f"{folder}/{name}")
    return {"day": day, "url": f"{store.url}/{folder}/{name}", **content._asdict()}


def strays(store: Store, record: ArchivedDay) -> list[str]:
    """Return the day's unrecorded files, which a killed run left behind."""
    names = store.names(f"day={record.day}/")
    return [name for name in names if f"{store.url}/{name}" != record.url and _OURS.fullmatch(name.rpartition("/")[2])]


Run: TypeAlias = Callable[[Callable[..., Any]], Any]
"""Runs work on a connection, as `loginpipe.postgres.session.Session.run`."""


def retire_month(run: Run, *, month: Partition, stores: Stores) -> str | None:
    """Detach and drop a month if each of its days is archived, with an intact file that matches the table.

    `run` runs each step in its own transactions. `month` is from `loginpipe.postgres.archive.outlived_months`. Return
    why it stays, or None if it was dropped.
    """
    last = month.end - timedelta(days=1)
    due = [day.day for day in run(partial(days_between, first=month.start, last=last)) if day.due]
    if due:
        # Do not read a month of files every night if a day is missing.
        return f"{len(due)} days are not archived, or have changed since, the first of them {min(due)}"
    for record in run(archived_days):
        if month.start <= record.day < month.end and not record.dropped_at:
            problem = run(partial(verify_day, record=record, stores=stores))
            if problem:
                return f"{problem}: `archive_logins` writes it again"
    reason: str | None = run(partial(drop_month, month=month))
    return reason
