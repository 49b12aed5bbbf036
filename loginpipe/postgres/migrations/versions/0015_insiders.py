"""Protect against insiders: fixed forms of subjects, two-step erasure, kinds of bulk requests, values with keys."""

from loginpipe.postgres.migrations.running import run_sql_file

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    run_sql_file("0015_insiders.sql")
    run_sql_file("0015_access.sql")
    run_sql_file("0015_erasure.sql")


def downgrade() -> None:
    run_sql_file("0015_insiders_undo.sql")
    run_sql_file("0002_access_functions.sql")
    run_sql_file("0015_erasure_undo.sql")
