"""Which partitions there should be on a given day, and which are of no more use; and making it so, beside loads.

The plan is pure: dates in, names and bounds out. That a table is partitioned at all is the migrations' doing.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from typing import TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from loginpipe.common.errors import DatabaseError
from loginpipe.postgres.connections import Connection, Cursor, transaction
from loginpipe.postgres.statements import statement

LEDGER = "loginpipe.ingested_messages"
USER_LOGINS = "public.user_logins"

# SQS keeps a message 14 days at most, and one that goes to a FIFO dead-letter queue, or is redriven, 14 more. A day
# more is for clocks that differ.
_LEDGER_KEPT = timedelta(days=29)
_LEDGER_AHEAD = timedelta(days=7)
_LOGIN_MONTHS = range(-1, 4)
_DAY = timedelta(days=1)

_KEYS = {LEDGER: "sent_on", USER_LOGINS: "create_date"}

_LOCK = int.from_bytes(b"lp-parts")  # any number that nobody else locks
# Loads and queries queue behind a lock that waits: never longer than this. And less than Postgres' deadlock_timeout,
# so that where two wait for each other this gives way, never a load.
_LOCK_WAIT = "900ms"
_ATTEMPTS = 5
_BUSY = ("55P03", "40P01")  # lock not available, deadlock

_BOUNDS = re.compile(r"FOR VALUES FROM \('?([^']+)'?\) TO \('?([^']+)'?\)")
_ENDLESS = {"MINVALUE": date.min, "-infinity": date.min, "MAXVALUE": date.max, "infinity": date.max}

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True, order=True)
class Partition:
    """A partition, for the days from ``start`` up to, not including, ``end``; as text, its schema and name.

    Attributes:
        table: schema and name of the parent.
        name: its own name, in the parent's schema.
    """

    table: str
    name: str
    start: date
    end: date

    def __str__(self) -> str:
        return f"{self.table.split('.')[0]}.{self.name}"

    def overlaps(self, other: "Partition") -> bool:
        """Say whether the two have a day in common; both of one table."""
        return self.start < other.end and other.start < self.end


def coming(today: date) -> list[Partition]:
    """List the partitions there should be on a UTC date.

    Those of the ledger from the day of the oldest message that SQS can hold to a week ahead, those of ``user_logins``
    from last month to three months ahead: maintenance may fail for a week before a row lands in a default partition.
    """
    first = ledger_begins(today)
    days = [first + offset * _DAY for offset in range((today + _LEDGER_AHEAD - first).days + 1)]
    months = [_first_of_month(today, offset) for offset in _LOGIN_MONTHS]
    return [
        *(_of_day(day) for day in days),
        *(month_of(month) for month in months),
    ]


def expired(existing: Iterable[Partition], today: date) -> list[Partition]:
    """Pick the ledger's partitions that no message can need any more on a UTC date.

    Never another table's, and none that somebody else made: the database drops those of the plan only.
    """
    first = ledger_begins(today)
    return [partition for partition in existing if partition.end <= first and partition == _of_day(partition.start)]


def ledger_begins(today: date) -> date:
    """Return the first day that the ledger must still hold on a UTC date."""
    return today - _LEDGER_KEPT


def month_of(day: date) -> Partition:
    """Return the partition of ``user_logins`` that a UTC date belongs in."""
    return Partition(USER_LOGINS, f"user_logins_{day:y%Ym%m}", _first_of_month(day, 0), _first_of_month(day, 1))


def outlived(existing: Iterable[Partition], today: date, days: int) -> list[Partition]:
    """Pick the months of ``user_logins`` that ended so many days before a UTC date, and before what is still delivered.

    None that somebody else made: the database drops those of the plan only.
    """
    kept_from = min(ledger_begins(today), today - timedelta(days))
    return [
        partition for partition in existing if partition.end <= kept_from and partition == month_of(partition.start)
    ]


def _of_day(day: date) -> Partition:
    return Partition(LEDGER, f"ingested_messages_{day:y%Ym%md%d}", day, day + _DAY)


def _first_of_month(day: date, offset: int) -> date:
    year, month = divmod(day.year * 12 + day.month - 1 + offset, 12)
    return date(year, month + 1, 1)


@dataclass(frozen=True, slots=True)
class MaintenanceResult:
    """What `maintain` did and found; tables and partitions with their schema.

    Attributes:
        created: partitions made.
        dropped: ledger partitions dropped.
        rows_in_default: rows in each default partition: of dates that no other one covers. Normally 0.
        left_alone: tables that are not ours to partition, with the reason: an adopted ``user_logins`` may be one.
    """

    created: list[str]
    dropped: list[str]
    rows_in_default: dict[str, int]
    left_alone: dict[str, str]


def maintain(connection: Connection, today: date) -> MaintenanceResult:
    """Make the coming partitions, moving rows that wait in a default one, and drop the ledger's expired ones.

    Safe beside loads and beside itself: one short transaction a partition, one maintainer at a time, no lock waited
    for longer than a second, five attempts. A partition of ``user_logins`` is never dropped.

    Args:
        connection: of the owner or a member of ``loginpipe_writer``, with no transaction open.
        today: the UTC date.

    Raises:
        DatabaseError: a partition could not be made or dropped, named; the ones before it stay as done.
    """
    created = _add_coming(connection, LEDGER, today)
    dropped = in_turn(connection, partial(_drop_expired, today=today), LEDGER)
    reason = in_turn(connection, partial(why_not_ours, table=USER_LOGINS), USER_LOGINS)
    if reason:
        return MaintenanceResult(created, dropped, rows_in_default(connection, LEDGER), {USER_LOGINS: reason})
    created += _add_coming(connection, USER_LOGINS, today)
    return MaintenanceResult(created, dropped, rows_in_default(connection, LEDGER, USER_LOGINS), {})


def in_turn(connection: Connection, work: Callable[[Cursor], _Result], subject: str) -> _Result:
    """Do work on partitions in a transaction of its own, one at a time, again when the locks it needs are taken.

    Args:
        connection: with no transaction open.
        work: short: whoever needs the table waits for it.
        subject: what it is about, for the message.

    Raises:
        DatabaseError: it failed, also after five attempts; names the subject.
    """

    def once() -> _Result:
        with transaction(connection) as cursor:
            # Each statement is to see what was committed before it, above all after a lock was waited for.
            cursor.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
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


def why_not_ours(cursor: Cursor, table: str) -> str | None:
    """Say why a table is not ours to partition; None where it is."""
    cursor.execute(statement("partitioning"), {"table": table})
    scheme, owned = cursor.fetchone() or (None, False)
    if scheme is None:
        return "it is not partitioned"
    if scheme != f"RANGE ({_KEYS[table]})":
        return f"it is partitioned by {scheme}"
    return None if owned else "another role owns it"


def days_are_found(cursor: Cursor) -> bool:
    """Say whether the rows of a day of ``user_logins`` are found without reading the whole table."""
    cursor.execute(statement("days_are_found"))
    return cursor.fetchone() == (True,)


def existing_partitions(cursor: Cursor, table: str) -> list[Partition]:
    """Read a table's partitions, without a default one."""
    cursor.execute(statement("existing_partitions"), {"table": table})
    partitions = []
    for name, bounds in cursor.fetchall():
        match = _BOUNDS.fullmatch(bounds)
        if match:
            start, end = (_ENDLESS.get(bound) or date.fromisoformat(bound) for bound in match.groups())
            partitions.append(Partition(table, name, start, end))
    return partitions


def ensure_month(connection: Connection, day: date) -> bool:
    """Make the partition of ``user_logins`` that a day belongs in, unless it has one; say whether it was made.

    Args:
        connection: of the owner or a member of ``loginpipe_writer``, with no transaction open.
        day: of a month that the plan has, or that was dropped once it was archived.

    Raises:
        DatabaseError: it could not be made.
    """
    if in_turn(connection, partial(why_not_ours, table=USER_LOGINS), USER_LOGINS):
        return False
    month = month_of(day)
    return in_turn(connection, partial(_add, partition=month), str(month))


def _add_coming(connection: Connection, table: str, today: date) -> list[str]:
    return [
        str(partition)
        for partition in coming(today)
        if partition.table == table and in_turn(connection, partial(_add, partition=partition), str(partition))
    ]


def _add(cursor: Cursor, partition: Partition) -> bool:
    """Make a partition unless one covers its days, or some of them; say whether it was made."""
    if any(partition.overlaps(other) for other in existing_partitions(cursor, partition.table)):
        return False
    cursor.execute("SELECT loginpipe.create_partition(%s, %s)", (partition.table, partition.start))
    return True


def _drop_expired(cursor: Cursor, today: date) -> list[str]:
    """Drop the ledger's expired partitions, which locks loads out for that moment, and expired rows in its default."""
    gone = expired(existing_partitions(cursor, LEDGER), today)
    for partition in gone:
        cursor.execute("SELECT loginpipe.drop_ledger_partition(%s)", (partition.start,))
    cursor.execute("SELECT loginpipe.trim_ledger(%s)", (ledger_begins(today),))
    return [str(partition) for partition in gone]


def rows_in_default(connection: Connection, *tables: str) -> dict[str, int]:
    """Count the rows in the default partition of each table that has one."""
    with transaction(connection) as cursor:
        cursor.execute("SELECT name, loginpipe.rows_in_default(name) FROM unnest(%s) AS asked (name)", (list(tables),))
        return {table: rows for table, rows in cursor if rows is not None}


def stray_rows(connection: Connection, today: date) -> Mapping[str, int]:
    """Return how many rows the default partition of each table holds that a partition of their own should.

    What the ledger has of messages that it need not keep any more is left out.
    """
    with transaction(connection) as cursor:
        cursor.execute(statement("default_partition_rows"), {"ledger_begins": ledger_begins(today)})
        ((logins, messages),) = cursor.fetchall()
    return {USER_LOGINS: logins, LEDGER: messages}
