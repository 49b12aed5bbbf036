"""The changes of each day, counted in the database: what is due is found there, whatever became of a run."""

from loginpipe.postgres.migrations.running import run_sql_file

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    run_sql_file("0011_days.sql")


def downgrade() -> None:
    run_sql_file("0011_days_undo.sql")
