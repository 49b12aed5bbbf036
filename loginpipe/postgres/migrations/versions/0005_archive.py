"""The archive's records: which days are in Parquet files, and what may be dropped from user_logins because of it."""

from loginpipe.common.errors import SchemaError
from loginpipe.postgres.migrations.running import driver_connection, run_sql_file

revision = "0005"
down_revision = "0004"

_DROPPED = "SELECT count(*) FROM loginpipe.archived_days WHERE dropped_at IS NOT NULL"


def upgrade() -> None:
    run_sql_file("0005_archive.sql")


def downgrade() -> None:
    """Refuse where days are in their files only: without these records no one would know which, and what is in them."""
    with driver_connection().cursor() as cursor:
        cursor.execute(_DROPPED)
        ((dropped,),) = cursor.fetchall()
    if dropped:
        raise SchemaError(
            f"0005 is not undone: {dropped} days are in the archive only; bring them back with `loginpipe archive "
            "restore` first"
        )
    run_sql_file("0005_archive_undo.sql")
