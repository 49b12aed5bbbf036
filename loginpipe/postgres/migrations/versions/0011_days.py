"""Count the changes of each day in the database, so that days that are due are found even if a run failed."""

from loginpipe.postgres.migrations.running import run_sql_file

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    run_sql_file("0011_days.sql")


def downgrade() -> None:
    run_sql_file("0011_days_undo.sql")
