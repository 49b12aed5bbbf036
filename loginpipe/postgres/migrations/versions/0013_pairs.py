"""Keep which user was seen with which token, by day, so that the cost of duplicates depends on the day only."""

from loginpipe.postgres.migrations.running import run_sql_file

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    run_sql_file("0013_pairs.sql")


def downgrade() -> None:
    run_sql_file("0013_pairs_undo.sql")
