"""What is in a database, as far as a backup has to know: its tables with their rows, its roles, whether it is empty."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from loginpipe.common.errors import BackupError
from loginpipe.postgres.connections import Connection, Cursor, place, transaction
from loginpipe.postgres.statements import statement


@dataclass(frozen=True)
class Contents:
    """What a database holds at one moment.

    Attributes:
        taken_at: that moment, by the server's clock.
        rows: table, with its schema → rows; as in `loginpipe.backup.manifest.Manifest`.
        roles: owners and grantees → whether each may log in.
    """

    taken_at: datetime
    rows: Mapping[str, int]
    roles: Mapping[str, bool]


def read_contents(cursor: Cursor) -> Contents:
    """Count every table that a dump would hold.

    Args:
        cursor: in a transaction of isolation level REPEATABLE READ, so that all counts are of one moment.

    Raises:
        BackupError: the role may not read a table.
    """
    cursor.execute("SELECT now()")
    ((taken_at,),) = cursor.fetchall()
    cursor.execute(statement("backup_tables"))
    tables = cursor.fetchall()
    unreadable = [table for table, readable in tables if not readable]
    if unreadable:
        cursor.execute("SELECT current_user")
        ((role,),) = cursor.fetchall()
        raise BackupError(
            f"{role} may not read {unreadable[0]} ({len(unreadable)} of {len(tables)} tables): back up as the owner, "
            f"or let an administrator run `GRANT pg_read_all_data TO {role}`"
        )
    rows = {}
    for table, _ in tables:
        # The name comes quoted from the catalog.
        cursor.execute(f"SELECT count(*) FROM ONLY {table}")  # noqa: S608
        ((rows[table],),) = cursor.fetchall()
    cursor.execute(statement("backup_roles"))
    return Contents(taken_at, rows, dict(cursor.fetchall()))


def require_rows(connection: Connection, expected: Mapping[str, int]) -> None:
    """Compare what a restored database holds with what the manifest says.

    Raises:
        BackupError: a table is missing, is too many, or has another number of rows.
    """
    with transaction(connection) as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        found = read_contents(cursor).rows
    wrong = [table for table in sorted({*expected, *found}) if found.get(table) != expected.get(table)]
    if wrong:
        table = wrong[0]
        raise BackupError(
            f"{place(connection)} is not what was backed up: {table} has {_rows(found.get(table))}, the manifest says "
            f"{_rows(expected.get(table))} ({len(wrong)} tables differ): use another backup"
        )


def require_empty(connection: Connection) -> None:
    """Refuse a database with anything in it that is not Postgres' own or an extension's.

    Raises:
        BackupError: it holds something.
    """
    with transaction(connection) as cursor:
        cursor.execute(statement("backup_in_the_way"))
        ((objects, first),) = cursor.fetchall()
    if objects:
        raise BackupError(
            f"{place(connection)} is not empty ({objects:,} objects, {first} among them), and nothing is overwritten: "
            "make a new database, and set LOGINPIPE_DATABASE_URL to it"
        )


def require_roles(connection: Connection, roles: Mapping[str, bool]) -> None:
    """Make sure that the server has the roles that own what is restored, or are granted it.

    Raises:
        BackupError: some are missing; gives the statements that make them.
    """
    with transaction(connection) as cursor:
        cursor.execute(
            "SELECT name, quote_ident(name) FROM unnest(%s) AS wanted (name) "
            "WHERE to_regrole(quote_ident(name)) IS NULL ORDER BY name",
            (list(roles),),
        )
        missing = cursor.fetchall()
    if missing:
        statements = "; ".join(f"CREATE ROLE {name} {'LOGIN' if roles[role] else 'NOLOGIN'}" for role, name in missing)
        raise BackupError(
            f"{place(connection)} is on a server without {len(missing)} of the roles that the backup needs, which are "
            f"the server's and in no dump: let an administrator run `{statements}`, then restore again"
        )


def _rows(count: int | None) -> str:
    return "no such table" if count is None else f"{count:,} rows"
