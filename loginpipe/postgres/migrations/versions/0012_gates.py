"""Locks on tables in the place of advisory ones, which any role may take; a database of ours, closed to others."""

from loginpipe.postgres.migrations.running import run_sql_file

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    run_sql_file("0012_gates.sql")


def downgrade() -> None:
    run_sql_file("0012_gates_undo.sql")
