"""Whether the table ``user_logins`` is the contract, and its database takes writes: what the catalog says, in words.

The contract itself is in `loginpipe.logins.user_logins`; what to do about a difference is the caller's.
"""

from collections.abc import Sequence

from loginpipe.logins.user_logins import USER_LOGINS_COLUMNS
from loginpipe.postgres.connections import Connection, Cursor, transaction
from loginpipe.postgres.statements import statement

_KINDS = {"r": "table", "p": "table", "v": "view", "m": "materialized view", "f": "foreign table"}


def user_logins_columns(connection: Connection) -> tuple[tuple[str, str], ...]:
    """Read name and type (as ``format_type`` prints it) of each column of ``public.user_logins``, in order.

    Reads in the caller's transaction. Empty where there is no such relation.

    Raises:
        psycopg2.Error: for the caller's `transaction` to translate.
    """
    with connection.cursor() as cursor:
        cursor.execute(statement("user_logins_columns"))
        return tuple((name, kind) for name, kind in cursor.fetchall())


def current_columns(connection: Connection) -> tuple[tuple[str, str], ...]:
    """Read what `user_logins_columns` does, in a transaction of its own.

    Raises:
        DatabaseError: the catalog cannot be read.
    """
    with transaction(connection):
        return user_logins_columns(connection)


def user_logins_kind(connection: Connection) -> str | None:
    """Say what ``public.user_logins`` is: ``table`` (partitioned or not), ``view``, …; None where there is none.

    Reads in the caller's transaction.

    Raises:
        psycopg2.Error: for the caller's `transaction` to translate.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT relkind FROM pg_class WHERE oid = to_regclass('public.user_logins')")
        row = cursor.fetchone()
    return None if row is None else _KINDS.get(row[0], "relation of another kind")


def why_read_only(cursor: Cursor) -> str | None:
    """Say why the database takes no writes, and what to do; None where it takes them."""
    cursor.execute(statement("writable"))
    ((replica, read_only),) = cursor.fetchall()
    if replica:
        return (
            "is a replica, which takes no writes: name the writer's endpoint in LOGINPIPE_DATABASE_URL, or, where that "
            "lists several hosts, add target_session_attrs=read-write"
        )
    if read_only:
        return (
            "is read-only: see whether its disk is full, then RESET default_transaction_read_only for the role, the "
            "database or the server"
        )
    return None


def replication_fault(cursor: Cursor) -> str | None:
    """Say which of our tables a publication keeps from being deleted from, and what to do; None where there is none."""
    cursor.execute(statement("without_replica_identity"))
    rows = cursor.fetchall()
    if not rows:
        return None
    # The partitioned table first: partitions that are still to come follow it.
    tables = dict.fromkeys([*sorted(root for _, root, _ in rows), *(table for table, _, _ in rows)])
    publications = dict.fromkeys(publication for _, _, publication in rows)
    return (
        f"the publication {' and '.join(publications)} replicates deletes from tables without a replica identity, "
        "which Postgres refuses, so erasures and maintenance fail: run "
        f"`{'; '.join(f'ALTER TABLE {table} REPLICA IDENTITY FULL' for table in tables)}`"
    )


def contract_differences(found: Sequence[tuple[str, str]]) -> list[str]:
    """List how columns differ from the contract, one phrase each; empty where they do not.

    Args:
        found: name and type of each column, in order, as `user_logins_columns` gives them.
    """
    expected, actual = dict(USER_LOGINS_COLUMNS), dict(found)
    differences = [f"column {name} ({kind}) is missing" for name, kind in expected.items() if name not in actual]
    differences += [f"column {name} ({kind}) is not expected" for name, kind in actual.items() if name not in expected]
    differences += [
        f"column {name} is {actual[name]}, expected {kind}"
        for name, kind in expected.items()
        if name in actual and actual[name] != kind
    ]
    if not differences and list(actual) != list(expected):
        differences.append(f"the columns are in the order {', '.join(actual)}, expected {', '.join(expected)}")
    return differences
