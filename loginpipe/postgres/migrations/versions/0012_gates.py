"""Replace advisory locks, which any role can take, by table locks; close the database to other roles."""

from loginpipe.postgres.migrations.running import run_sql_file

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    run_sql_file("0012_gates.sql")


def downgrade() -> None:
    run_sql_file("0012_gates_undo.sql")
