"""Plan which partitions a day needs and which have expired; create and drop them while loads run.

The plan is pure: dates in, names and bounds out. The migrations decide whether a table is partitioned.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import partial
from typing import NamedTuple, TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from loginpipe.common.errors import DatabaseError
from loginpipe.common.logins_table import logins_table
from loginpipe.postgres.connections import READ_COMMITTED, Connection, Cursor, fetch, transaction
from loginpipe.postgres.statements import statement

LEDGER = "loginpipe.ingested_messages"
EXTRAS = "loginpipe.login_extras"

# SQS keeps a message for up to 14 days, and for 14 more in a FIFO dead-letter queue or after a redrive. One more day
# allows for clocks that differ.
_LEDGER_KEPT = timedelta(days=29)
_LEDGER_AHEAD = timedelta(days=7)
_LOGIN_MONTHS = range(-1, 4)
_DAY = timedelta(days=1)

_BY_DAY = "RANGE (create_date)"
_BY_DAY_OF_THE_LEDGER = "RANGE (sent_on)"

# Loads and queries queue behind a waiting lock request, so it never waits longer than this. It is less than Postgres'
# deadlock_timeout, so that in a deadlock this gives way, never a load.
_LOCK_WAIT = "900ms"
_ATTEMPTS = 5
_BUSY = ("55P03", "40P01")  # lock not available, deadlock

_BOUNDS = re.compile(r"FOR VALUES FROM \('?([^']+)'?\) TO \('?([^']+)'?\)")
_ENDLESS = {"MINVALUE": date.min, "-infinity": date.min, "MAXVALUE": date.max, "infinity": date.max}

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True, order=True)
class Partition:
    """A partition for the days from ``start`` up to, not including, ``end``. Its text is schema and name.

    ``table`` is the parent with its schema, which ``name`` is in too.
    """

    table: str
    name: str
    start: date
    end: date

    def __str__(self) -> str:
        return f"{self.table.split('.')[0]}.{self.name}"

    @property
    def days(self) -> str:
        """Return its days as text, as in ``2026-11-06 to 2026-11-30``."""
        last = self.end - _DAY
        return str(last) if last == self.start else f"{self.start} to {last}"

    def overlaps(self, other: "Partition") -> bool:
        """Return True if the two have a day in common; both must belong to one table."""
        return self.start < other.end and other.start < self.end

    def uncovered(self, existing: Iterable["Partition"]) -> list["Partition"]:
        """Return the parts that no existing partition covers, as wide as possible; itself if none is covered.

        ``loginpipe.create_partition`` computes the same end of a part.
        """
        pieces, start = [], self.start
        for other in sorted((other for other in existing if self.overlaps(other)), key=lambda other: other.start):
            if other.start > start:
                pieces.append(self._piece(start, other.start))
            start = max(start, other.end)
        if start < self.end:
            pieces.append(self._piece(start, self.end))
        return pieces

    def _piece(self, start: date, end: date) -> "Partition":
        if (start, end) == (self.start, self.end):
            return self
        return replace(self, name=f"{self.table.split('.')[1]}_{start:y%Ym%md%d}", start=start, end=end)


def coming(today: date) -> list[Partition]:
    """Return the partitions that should exist on a UTC date.

    The ledger has them from the oldest day that SQS can still deliver to a week ahead, ``user_logins`` and the extras
    from last month to three months ahead. So maintenance may fail for a week before a row lands in a default partition.
    """
    days = [_of_day(ledger_begins(today) + offset * _DAY) for offset in range((_LEDGER_KEPT + _LEDGER_AHEAD).days + 1)]
    months = [_first_of_month(today, offset) for offset in _LOGIN_MONTHS]
    return [*days, *(month_of(month, table) for table in (EXTRAS, logins_table()) for month in months)]


def expired(existing: Iterable[Partition], today: date) -> list[Partition]:
    """Return the partitions of the ledger that no message can need any more on a UTC date.

    It returns only those that loginpipe made, because the database drops no others.
    """
    first = ledger_begins(today)
    return [partition for partition in existing if partition.end <= first and partition == _of_day(partition.start)]


def ledger_begins(today: date) -> date:
    """Return the first day that the ledger must still hold on a UTC date."""
    return today - _LEDGER_KEPT


def retention_begins(today: date, days: int) -> date:
    """Return the first day to keep if ``days`` days are kept. Days that SQS may still deliver are always kept."""
    return min(ledger_begins(today), today - timedelta(days))


def month_of(day: date, table: str | None = None) -> Partition:
    """Return the partition for the month of a UTC date, of ``user_logins`` or of ``table``."""
    table = table or logins_table()
    name = f"{table.split('.')[1]}_{day:y%Ym%m}"
    return Partition(table, name, _first_of_month(day, 0), _first_of_month(day, 1))


def outlived(existing: Iterable[Partition], today: date, days: int) -> list[Partition]:
    """Return the months of ``user_logins`` that ended before `retention_begins`; as `expired`, only loginpipe's."""
    first = retention_begins(today, days)
    return [partition for partition in existing if partition.end <= first and partition == month_of(partition.start)]


def _of_day(day: date) -> Partition:
    return Partition(LEDGER, f"ingested_messages_{day:y%Ym%md%d}", day, day + _DAY)


def _first_of_month(day: date, offset: int) -> date:
    year, month = divmod(day.year * 12 + day.month - 1 + offset, 12)
    return date(year, month + 1, 1)


class MaintenanceResult(NamedTuple):
    """The result of `maintain`; tables and partitions with their schema.

    Attributes:
        created: new partitions.
        dropped: dropped ledger partitions.
        rows_in_default: rows in each default partition. Normally 0.
        unmanaged: table, as an adopted ``user_logins`` → why loginpipe does not partition it, and uncovered days.
    """

    created: list[str]
    dropped: list[str]
    rows_in_default: dict[str, int]
    unmanaged: dict[str, str]


def maintain(connection: Connection, today: date) -> MaintenanceResult:
    """Create the coming partitions, move their rows out of the default ones, and drop the ledger's expired ones.

    Safe during loads and concurrent calls: one short transaction per partition, one maintainer at a time, lock waits of
    at most a second, five attempts. It never drops partitions of ``user_logins`` or of the extras; retention does. The
    role must be the owner or a member of ``loginpipe_writer``. After an error, what was done before stays.
    """
    table = logins_table()
    created = [name for of in (LEDGER, EXTRAS) for name in _add_uncovered(connection, of, coming(today))]
    dropped = in_turn(connection, partial(_drop_expired, today=today), LEDGER)
    found = in_turn(connection, partial(partitioning, table=table), table)
    if found.not_ours:
        unmanaged = found.unmanaged(today) or found.not_ours
        return MaintenanceResult(created, dropped, rows_in_default(connection, LEDGER), {table: unmanaged})
    created += _add_uncovered(connection, table, coming(today))
    in_turn(connection, lambda cursor: cursor.execute("SELECT loginpipe.share_replica_identity(%s)", (table,)), table)
    return MaintenanceResult(created, dropped, rows_in_default(connection, LEDGER, table), {})


def in_turn(connection: Connection, work: Callable[[Cursor], _Result], subject: str) -> _Result:
    """Work on partitions in a transaction of its own, one process at a time; retry if the needed locks are taken.

    ``work`` must be short, because other users of the table wait for it.

    Raises:
        DatabaseError: it failed, after five attempts if locks were taken; names the subject.
    """

    def once() -> _Result:
        with transaction(connection, READ_COMMITTED) as cursor:
            take_turn(cursor, "partitions")
            cursor.execute("SELECT set_config('lock_timeout', %s, true)", (_LOCK_WAIT,))
            return work(cursor)

    retrying = Retrying(
        retry=retry_if_exception(lambda error: isinstance(error, DatabaseError) and error.sqlstate in _BUSY),
        stop=stop_after_attempt(_ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.2, max=5),
        reraise=True,
    )
    try:
        return retrying(once)
    except DatabaseError as error:
        raise DatabaseError(f"maintaining partitions, {subject}: {error}", error.sqlstate) from None


def take_turn(cursor: Cursor, work: str) -> None:
    """Wait until no other transaction does this work, and block others until this one ends.

    Unlike an advisory lock, only the pipeline and the owner can take it.
    """
    cursor.execute("SELECT loginpipe.take_turn(%s)", (work,))


@dataclass(frozen=True)
class Partitioning:
    """How a table is partitioned.

    Attributes:
        scheme: as in ``RANGE (create_date)``; None if it is not partitioned.
        owned: True if the role that the partition functions run as owns it.
        partitions: those besides the default one, if it is partitioned by ranges of days.
    """

    table: str
    scheme: str | None
    owned: bool
    has_default: bool
    partitions: Sequence[Partition]

    @property
    def not_ours(self) -> str | None:
        """Return why loginpipe does not partition the table; None if it does."""
        if self.scheme is None:
            return "it is not partitioned"
        if not self._by_day:
            return f"it is partitioned by {self.scheme}"
        return None if self.owned else "another role owns it"

    @property
    def _by_day(self) -> bool:
        return self.scheme == (_BY_DAY_OF_THE_LEDGER if self.table == LEDGER else _BY_DAY)

    def uncovered(self, today: date) -> list[Partition]:
        """Return the days from a UTC date to the end of the coming months that no partition covers."""
        if not self._by_day:
            return []
        last = max(partition for partition in coming(today) if partition.table == self.table)
        return replace(last, start=today).uncovered(self.partitions)

    def unmanaged(self, today: date) -> str | None:
        """Return why loginpipe does not partition the table, and where logins go that no partition accepts.

        None if loginpipe partitions it, or if its partitions cover the coming months.
        """
        rest = "go to its default partition" if self.has_default else "are rejected"
        if self.not_ours is None or self.scheme is None:
            return None
        if not self._by_day:
            return f"{self.not_ours}: logins that none of its partitions takes {rest}"
        gaps = self.uncovered(today)
        if not gaps:
            return None
        days = ", ".join(gap.days for gap in gaps[:3]) + (" and others" if gaps[3:] else "")
        return f"{self.not_ours}: no partition covers {days}: logins of these days {rest}"

    def notes(self, today: date) -> list[str]:
        """Return what to know about partitions that loginpipe did not create, one phrase each."""
        unmanaged = self.unmanaged(today)
        if unmanaged:
            return [f"partitions: {unmanaged}"]
        others = sorted(partition for partition in self.partitions if not _is_of_our_making(partition))
        if self.not_ours or not others:
            return []
        note = (
            f"partitions: loginpipe did not create {len(others)} of them, such as {others[0]}: it adds partitions for "
            "other days and never drops these; switch off the job that creates them, or both create partitions for the "
            "same days"
        )
        return [note]


def _is_of_our_making(partition: Partition) -> bool:
    month = month_of(partition.start)
    return partition == month or partition.name == f"{month.name}{partition.start:d%d}"


def partitioning(cursor: Cursor, table: str) -> Partitioning:
    """Read how a table is partitioned."""
    cursor.execute(statement("partitioning"), {"table": table})
    scheme, owned, has_default = cursor.fetchone() or (None, False, False)
    partitions = existing_partitions(cursor, table) if scheme in {_BY_DAY, _BY_DAY_OF_THE_LEDGER} else ()
    return Partitioning(table, scheme, owned, has_default, partitions)


def days_are_found(cursor: Cursor) -> bool:
    """Return True if the rows of a day of ``user_logins`` can be found without reading the whole table."""
    cursor.execute(statement("days_are_found"))
    return cursor.fetchone() == (True,)


def existing_partitions(cursor: Cursor, table: str) -> list[Partition]:
    """Read a table's partitions, without a default one."""
    cursor.execute(statement("existing_partitions"), {"table": table})
    with_bounds = ((name, _BOUNDS.fullmatch(bounds)) for name, bounds in cursor.fetchall())
    return [Partition(table, name, *map(_bound, bounds.groups())) for name, bounds in with_bounds if bounds]


def _bound(text: str) -> date:
    if text in _ENDLESS:
        return _ENDLESS[text]
    try:
        return date.fromisoformat(text)
    except ValueError:  # BC, or a year of five digits
        return date.min if text.endswith(" BC") else date.max


def ensure_month(connection: Connection, day: date) -> bool:
    """Create what is missing of the partition for a day's month in ``user_logins``; return True if it was created.

    The month is planned, or was dropped after it was archived. The role is as for `maintain`.
    """
    table = logins_table()
    found = in_turn(connection, partial(partitioning, table=table), table)
    return not found.not_ours and bool(_add_uncovered(connection, table, [month_of(day)]))


def _add_uncovered(connection: Connection, table: str, wanted: Iterable[Partition]) -> list[str]:
    """Create the missing parts of a table's partitions, each in its own transaction; return their names."""
    existing = in_turn(connection, partial(existing_partitions, table=table), table)
    missing = [piece for planned in wanted if planned.table == table for piece in planned.uncovered(existing)]
    return [str(piece) for piece in missing if in_turn(connection, partial(_add, partition=piece), str(piece))]


def _add(cursor: Cursor, partition: Partition) -> bool:
    """Create a partition unless its days overlap an existing one by now; return True if it was created."""
    if any(partition.overlaps(other) for other in existing_partitions(cursor, partition.table)):
        return False
    if partition.table == EXTRAS:
        cursor.execute("SELECT loginpipe.create_extras_partition(%s)", (partition.start,))
    else:
        cursor.execute("SELECT loginpipe.create_partition(%s, %s)", (partition.table, partition.start))
    return True


def _drop_expired(cursor: Cursor, today: date) -> list[str]:
    """Drop the ledger's expired partitions, which briefly blocks loads, and expired rows in its default partition."""
    gone = expired(existing_partitions(cursor, LEDGER), today)
    for partition in gone:
        cursor.execute("SELECT loginpipe.drop_ledger_partition(%s)", (partition.start,))
    cursor.execute("SELECT loginpipe.trim_ledger(%s)", (ledger_begins(today),))
    return [str(partition) for partition in gone]


def rows_in_default(connection: Connection, *tables: str) -> dict[str, int]:
    """Count the rows in the default partition of each table that has one."""
    query = "SELECT name, loginpipe.rows_in_default(name) FROM unnest(%s) AS asked (name)"
    return {table: rows for table, rows in fetch(connection, query, (list(tables),)) if rows is not None}


def stray_rows(connection: Connection, today: date) -> Mapping[str, int]:
    """Count the rows in the default partition of each table that belong in a partition of their own.

    Expired rows of the ledger are left out.
    """
    begins = ledger_begins(today)
    ((logins, messages),) = fetch(connection, statement("default_partition_rows"), {"ledger_begins": begins})
    return {logins_table(): logins, LEDGER: messages}
