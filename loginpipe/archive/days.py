"""Write days to the archive, verify their files, compare them with the table, and drop months archived in full."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from enum import StrEnum
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias
from uuid import uuid4

from loginpipe.archive.parquet import ROWS_AT_ONCE, Content, Row, content_of, file_sha256_of, write_day
from loginpipe.archive.store import Store, Stores
from loginpipe.common.errors import ArchivedDayError
from loginpipe.postgres.archive import (
    ArchivedDay,
    DayStatus,
    archived_day,
    archived_days,
    content_in_table,
    days_between,
    drop_month,
    mark_unchanged,
    mark_verified,
    note_differing_days,
    record_archived,
    stream_logins,
    work_on_day,
)
from loginpipe.postgres.connections import Connection, Cursor, transaction
from loginpipe.postgres.days import changes_of, record_changes
from loginpipe.postgres.erasures import erasures_so_far, require_no_erasure_since, tombstones_since
from loginpipe.postgres.partitions import Partition, month_of

_NOTHING = (0, "")
_OURS = re.compile(r"[._]{0,2}part-[0-9a-f]{32}\.parquet")
# The rows of this many newest archived days are also compared by checksum, which reads all of them.
_HASHED_DAYS = 3
# The rows of this many newest days are always counted. Of the older days in the table, one month at a time is counted.
_COUNTED_DAYS = 31


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


def verify_day(connection: Connection, *, record: ArchivedDay, stores: Stores) -> str | None:
    """Read a day's file back, compare it with its record, record the result, and return the problem, if any."""
    problem = problem_of(record, stores)
    mark_verified(connection, record.day, record.url, whole=problem is None)
    return problem


def problem_of(record: ArchivedDay, stores: Stores) -> str | None:
    """Read a day's file back, compare it with its record, and return the problem, if any."""
    store, name = stores.locate(record.url)
    try:
        with store.fetched(name) as path:
            require_whole(path, record)
    except ArchivedDayError as error:
        return str(error)
    return None


def require_whole(path: Path, record: ArchivedDay) -> None:
    """Compare a file with its record. Raise ArchivedDayError if it is another file, or damaged."""
    recorded = Content(record.row_count, record.sha256, record.file_bytes, record.file_sha256)
    # Decode bytes only if they are those that were written.
    require_same_bytes(path, record)
    if content_of(path) != recorded:
        raise _damaged(record)


def require_same_bytes(path: Path, record: ArchivedDay) -> None:
    """Compare the bytes of a file with the written ones, without reading rows. Raise as `require_whole`."""
    if file_sha256_of(path) != record.file_sha256:
        raise _damaged(record)


def _damaged(record: ArchivedDay) -> ArchivedDayError:
    return ArchivedDayError(f"the file of {record.day} is damaged: its checksum is not the one recorded, {record.url}")


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison, in days.

    Attributes:
        compared: archived ones whose rows in the table were counted.
        dropped: those that are only in the archive.
        not_archived: counted ones that are not archived.
        differing: day → the difference as text.
    """

    compared: int
    dropped: int
    not_archived: int
    differing: Mapping[date, str]


def compare_with_table(connection: Connection, *, today: date) -> Comparison:
    """Compare row counts of the newest days and of an older month, and checksums of the newest archived days.

    Days that differ or are not archived are noted as changed, so that the next run archives them. So rows that another
    program wrote reach the archive too.
    """
    records = archived_days(connection)
    ranges = counted_ranges(records, today)
    days = [day for first, last in ranges for day in days_between(connection, first=first, last=last)]
    newest = [record for record in records if not record.dropped_at][-_HASHED_DAYS:]
    with transaction(connection) as cursor:
        stored = content_in_table(cursor, newest[0].day, newest[-1].day) if newest else {}
    comparison = compare(days, newest, {day: sha256 for day, (_, sha256) in stored.items()})
    note_differing_days(connection, [*comparison.differing, *(day.day for day in days if day.archived is None)])
    return replace(comparison, dropped=sum(record.dropped_at is not None for record in records))


def counted_ranges(records: Sequence[ArchivedDay], today: date) -> list[tuple[date, date]]:
    """Return the first and last days of the ranges to count. To count the whole table would take ever longer.

    The date of today selects the older month.
    """
    newest = today - timedelta(days=_COUNTED_DAYS)
    ranges = [(newest, today - timedelta(days=1))]
    months = sorted({month_of(record.day) for record in records if record.day < newest and not record.dropped_at})
    if months:
        month = months[today.toordinal() % len(months)]
        ranges.insert(0, (month.start, min(month.end, newest) - timedelta(days=1)))
    return ranges


def compare(days: Sequence[DayStatus], newest: Sequence[ArchivedDay], hashes: Mapping[date, str]) -> Comparison:
    """Compare counts of days, and the checksums (day → SHA-256 in the table) of the newest ones."""
    expected = {record.day: record.sha256 for record in newest}
    differing = {}
    for day in days:
        if day.dropped and day.stored:
            differing[day.day] = f"was dropped, and {day.stored:,} rows came since"
        elif day.archived is not None and not day.dropped and day.stored != day.archived:
            differing[day.day] = f"{day.stored:,} rows in the table, {day.archived:,} in the archive"
        elif day.day in hashes and expected.get(day.day, hashes[day.day]) != hashes[day.day]:
            differing[day.day] = "as many rows, and not the same ones"
    return Comparison(
        compared=sum(day.archived is not None and not day.dropped for day in days),
        dropped=sum(day.dropped for day in days),
        not_archived=sum(day.archived is None for day in days),
        differing=differing,
    )
