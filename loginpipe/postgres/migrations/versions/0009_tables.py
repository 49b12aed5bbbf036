"""Record the table of logins, and allow partitions for days between the existing ones."""

from loginpipe.common.errors import SchemaError
from loginpipe.common.logins_table import DEFAULT_TABLE
from loginpipe.postgres.migrate import table_on_record
from loginpipe.postgres.migrations.running import driver_connection, run_sql_file

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    run_sql_file("0009_tables.sql")


def downgrade() -> None:
    """Refuse if the table is not ``public.user_logins``, because earlier code knows only that one."""
    with driver_connection().cursor() as cursor:
        table = table_on_record(cursor)
    if table != DEFAULT_TABLE:
        raise SchemaError(
            f"0009 is not undone: the code before it knows {DEFAULT_TABLE} only; the logins are in {table}"
        )
    run_sql_file("0009_tables_undo.sql")
