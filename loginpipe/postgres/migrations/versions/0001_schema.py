"""Create or adopt ``user_logins``, create everything else that the pipeline needs, and grant it to four roles.

Roles belong to the cluster, and another role may own the database and ``user_logins``. If this role lacks privileges on
them, one error lists all statements that an administrator must run.
"""

from pathlib import Path

from alembic import context  # noqa: TID253  only Alembic loads this file

from loginpipe.common.errors import SchemaError
from loginpipe.common.logins_table import logins_table
from loginpipe.postgres.connections import Connection
from loginpipe.postgres.contract import examine_table, user_logins_kind
from loginpipe.postgres.migrations import driver_connection, run_sql_file, sql_file

revision = "0001"
down_revision = None

_HERE = Path(__file__).parent
_ROLES = ("loginpipe_writer", "loginpipe_analyst", "pii_custodian", "pii_auditor")
# In the order of their dependencies. Each object is created once, in its final form.
_SUBJECTS = (
    "basics",
    "batches",
    "tokens",
    "extras",
    "insights",
    "archive",
    "partitions",
    "vault",
    "access_log",
    "access",
    "erasure",
    "grants",
)


def upgrade() -> None:
    connection = driver_connection()
    if _adopts_user_logins(connection):
        context.config.attributes["adopted"] = True
    else:
        run_sql_file(_HERE / "0001_user_logins.sql")
    _create_roles(connection)
    for subject in _SUBJECTS:
        run_sql_file(_HERE / f"0001_{subject}.sql")


def downgrade() -> None:
    """Refuse, because the ledger, the vault, the access log and the tombstones cannot be replaced."""
    raise SchemaError(
        "0001 is not undone: that would drop the vault, the ledger, the access log and the tombstones of erased users. "
        "Whoever means it drops the schemas vault and loginpipe by hand; user_logins stays"
    )


def _adopts_user_logins(connection: Connection) -> bool:
    """Return True if the table exists and can be adopted as it is.

    Raises:
        SchemaError: the table exists but cannot store logins as it is.
    """
    table, kind = logins_table(), user_logins_kind(connection)
    if kind is None:
        return False
    if kind != "table":
        raise SchemaError(f"{table} is a {kind}, expected a table: rename it, then migrate")
    obstacles = examine_table(connection).obstacles
    if obstacles:
        raise SchemaError(f"{table} is not as expected: {'; '.join(obstacles)}. Alter or rename it, then migrate")
    return True


def _create_roles(connection: Connection) -> None:
    """Create the roles, and grant what they need on objects that another role may own.

    Raises:
        SchemaError: an administrator must do some of it; lists all statements.
    """
    absent = _absent_roles(connection)
    if absent and not _may_create_roles(connection):
        raise _for_an_administrator(connection, [*_create(absent), *_foreign_grants(connection, give=False)])
    run_sql_file(_HERE / "0001_roles.sql")
    not_given = _foreign_grants(connection, give=True)
    if not_given:
        raise _for_an_administrator(connection, [*_create(absent), *not_given])


def _absent_roles(connection: Connection) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT rolname FROM pg_roles WHERE rolname = ANY (%s)", (list(_ROLES),))
        there = {name for (name,) in cursor}
    return [role for role in _ROLES if role not in there]


def _may_create_roles(connection: Connection) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user")
        return cursor.fetchone() == (True,)


def _create(roles: list[str]) -> list[str]:
    return [f"CREATE ROLE {role} NOLOGIN" for role in roles]


def _foreign_grants(connection: Connection, *, give: bool) -> list[str]:
    """If ``give``, grant what this role can; return the statements that are still needed and that it cannot run."""
    with connection.cursor() as cursor:
        cursor.execute(sql_file(_HERE / "0001_foreign_grants.sql"))
        wanted = cursor.fetchall()
        for grant, _, grantable in wanted:
            if give and grantable:
                cursor.execute(grant)
    return [grant for grant, held, grantable in wanted if not held and not grantable]


def _for_an_administrator(connection: Connection, statements: list[str]) -> SchemaError:
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_user")
        [(role,)] = cursor.fetchall()
    return SchemaError(
        f"the role {role} may not do all of the migration: let an administrator of the database run "
        f"`{'; '.join(statements)}`, then migrate again"
    )
