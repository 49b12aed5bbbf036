"""Counts that checks judge by, each cheap whatever the table's size. Counts only."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from loginpipe.postgres.connections import Connection, transaction
from loginpipe.postgres.partition_plan import LEDGER, USER_LOGINS, ledger_begins
from loginpipe.postgres.statements import statement


@dataclass(frozen=True)
class DayCounts:
    """Logins of a day, and how many of them name no locale."""

    logins: int
    null_locales: int


def daily_counts(connection: Connection, first: date, last: date) -> dict[date, DayCounts]:
    """Return the logins of each day as the asset ``daily_logins`` has counted them; days without any are left out."""
    with transaction(connection) as cursor:
        cursor.execute(statement("daily_counts"), {"first": first, "last": last})
        return {day: DayCounts(logins, null_locales) for day, logins, null_locales in cursor}


def stray_rows(connection: Connection, today: date) -> Mapping[str, int]:
    """Return how many rows the default partition of each table holds that a partition of their own should.

    Args:
        connection: with no transaction open.
        today: the UTC date. What the ledger has of messages that it need not keep any more is left out.
    """
    with transaction(connection) as cursor:
        cursor.execute(statement("default_partition_rows"), {"ledger_begins": ledger_begins(today)})
        ((logins, messages),) = cursor.fetchall()
    return {USER_LOGINS: logins, LEDGER: messages}


def newest_key_version(connection: Connection) -> int:
    """Return the highest version of the token key that tokens were made with; 0 where there are none."""
    with transaction(connection) as cursor:
        cursor.execute("SELECT coalesce(max(key_version), 0) FROM loginpipe.token_key_checks")
        ((version,),) = cursor.fetchall()
    return int(version)
