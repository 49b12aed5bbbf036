"""Record which days are in Parquet files, and allow archived months to be dropped from ``user_logins``."""

from loginpipe.common.errors import SchemaError
from loginpipe.postgres.migrations.running import driver_connection, run_sql_file

revision = "0005"
down_revision = "0004"

_DROPPED = "SELECT count(*) FROM loginpipe.archived_days WHERE dropped_at IS NOT NULL"


def upgrade() -> None:
    run_sql_file("0005_archive.sql")


def downgrade() -> None:
    """Refuse if days are only in the archive, because only these records show which days, and what they contain."""
    with driver_connection().cursor() as cursor:
        cursor.execute(_DROPPED)
        ((dropped,),) = cursor.fetchall()
    if dropped:
        raise SchemaError(
            f"0005 is not undone: {dropped} days are in the archive only; bring them back with `loginpipe archive "
            "restore` first"
        )
    run_sql_file("0005_archive_undo.sql")
