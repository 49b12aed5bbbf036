"""Who was seen with what, kept by day: duplicates are computed from it, and cost what the day costs."""

from loginpipe.postgres.migrations.running import run_sql_file

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    run_sql_file("0013_pairs.sql")


def downgrade() -> None:
    run_sql_file("0013_pairs_undo.sql")
