"""Custody against insiders: one form of subjects, erasure in two steps, bulk requests with a kind, values with keys."""

from loginpipe.postgres.migrations.running import run_sql_file

revision = "0013"
down_revision = "0010"


def upgrade() -> None:
    run_sql_file("0013_insiders.sql")
    run_sql_file("0013_access.sql")
    run_sql_file("0013_erasure.sql")


def downgrade() -> None:
    run_sql_file("0013_insiders_undo.sql")
    run_sql_file("0002_access_functions.sql")
    run_sql_file("0013_erasure_undo.sql")
