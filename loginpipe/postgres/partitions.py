"""Make the partitions that `partition_plan` asks for, and drop what it calls expired, beside loads that go on.

Deciding which those are is the plan's matter, not this file's.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from loginpipe.common.errors import DatabaseError
from loginpipe.postgres.connections import Connection, Cursor, transaction
from loginpipe.postgres.partition_plan import LEDGER, USER_LOGINS, Partition, coming, expired, ledger_begins, month_of
from loginpipe.postgres.statements import statement

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
