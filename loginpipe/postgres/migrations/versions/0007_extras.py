"""Keep the extra fields of logins: in clear if LOGINPIPE_EXTRA_FIELDS lists them, sealed otherwise."""

from loginpipe.common.errors import SchemaError
from loginpipe.postgres.migrations.running import driver_connection, run_sql_file

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    run_sql_file("0007_extras.sql")


def downgrade() -> None:
    """Refuse if there are extras, because no other place has them."""
    with driver_connection().cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT FROM loginpipe.login_extras)")
        if cursor.fetchone() == (True,):
            raise SchemaError(
                "0007 is not undone: that would drop loginpipe.login_extras, and no other place has what is in it. "
                "Back the table up and empty it, then undo 0007 again"
            )
    run_sql_file("0007_extras_undo.sql")
