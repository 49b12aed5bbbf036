"""Create roles and grants, recorded access to personal data, erasure, token aliases, and functions for partitions.

Roles belong to the cluster, and another role may own the database and ``user_logins``. If this role lacks privileges on
them, one error lists all statements that an administrator must run.
"""

from loginpipe.common.errors import SchemaError
from loginpipe.postgres.connections import Connection
from loginpipe.postgres.migrations.running import driver_connection, run_sql_file, sql_file

revision = "0002"
down_revision = "0001"

_ROLES = ("loginpipe_writer", "loginpipe_analyst", "pii_custodian", "pii_auditor")


def upgrade() -> None:
    connection = driver_connection()
    absent = _absent_roles(connection)
    if absent and not _may_create_roles(connection):
        raise _for_an_administrator(connection, [*_create(absent), *_foreign_grants(connection, give=False)])
    run_sql_file("0002_roles.sql")
    not_given = _foreign_grants(connection, give=True)
    if not_given:
        raise _for_an_administrator(connection, [*_create(absent), *not_given])
    run_sql_file("0002_partitions.sql")
    run_sql_file("0002_aliases.sql")
    run_sql_file("0002_erased_users.sql")
    run_sql_file("0002_access_log.sql")
    run_sql_file("0002_access_rules.sql")
    run_sql_file("0002_sealed_subjects.sql")
    run_sql_file("0002_access_functions.sql")
    run_sql_file("0002_erase_user.sql")
    run_sql_file("0002_grants.sql")


def downgrade() -> None:
    """Refuse, because this would drop the log of who saw what, and the tombstones that keep erased users erased."""
    raise SchemaError(
        "0002 is not undone: that would drop the access log and the tombstones of erased users. Whoever means it drops "
        "the schemas vault and loginpipe by hand; user_logins stays"
    )


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
        cursor.execute(sql_file("0002_foreign_grants.sql"))
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
        f"the role {role} may not do all of migration 0002: let an administrator of the database run "
        f"`{'; '.join(statements)}`, then migrate again"
    )
