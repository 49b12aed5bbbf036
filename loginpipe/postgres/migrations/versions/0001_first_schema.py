"""Create or adopt ``user_logins``, and create the pipeline's own tables and the tables of the vault."""

from alembic import context  # noqa: TID253  only Alembic loads this file

from loginpipe.common.errors import SchemaError
from loginpipe.common.logins_table import logins_table
from loginpipe.postgres.contract import examine_table, user_logins_kind
from loginpipe.postgres.migrations.running import driver_connection, run_sql_file

revision = "0001"
down_revision = None


def upgrade() -> None:
    if _adopts_user_logins():
        context.config.attributes["adopted"] = True
    else:
        run_sql_file("0001_user_logins.sql")
    run_sql_file("0001_app_versions.sql")
    run_sql_file("0001_operations.sql")
    run_sql_file("0001_vault.sql")


def downgrade() -> None:
    """Refuse, because without the ledger messages could be stored twice, and the vault cannot be replaced."""
    raise SchemaError(
        "0001 is not undone: that would drop the vault and the ledger. Whoever means it drops the schemas vault and "
        "loginpipe by hand; user_logins stays"
    )


def _adopts_user_logins() -> bool:
    """Return True if the table exists and can be adopted as it is.

    Raises:
        SchemaError: the table exists but cannot store logins as it is.
    """
    connection, table = driver_connection(), logins_table()
    kind = user_logins_kind(connection)
    if kind is None:
        return False
    if kind != "table":
        raise SchemaError(f"{table} is a {kind}, expected a table: rename it, then migrate")
    obstacles = examine_table(connection).obstacles
    if obstacles:
        raise SchemaError(f"{table} is not as expected: {'; '.join(obstacles)}. Alter or rename it, then migrate")
    return True
