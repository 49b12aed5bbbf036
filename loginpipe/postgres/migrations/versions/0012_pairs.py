"""Who was seen with what, kept by day: duplicates are computed from it, and cost what the day costs."""

from loginpipe.postgres.migrations.running import run_sql_file

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    run_sql_file("0012_pairs.sql")


def downgrade() -> None:
    run_sql_file("0012_pairs_undo.sql")
