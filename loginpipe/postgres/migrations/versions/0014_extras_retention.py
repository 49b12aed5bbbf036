"""Retention of extras: those of months that are older than ``user_logins`` keeps can be dropped."""

from loginpipe.postgres.migrations.running import run_sql_file

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    run_sql_file("0014_extras_retention.sql")


def downgrade() -> None:
    run_sql_file("0014_extras_retention_undo.sql")
