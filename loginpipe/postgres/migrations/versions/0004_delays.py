"""Count the delays of logins, from sent to stored, with the run that stored them."""

from loginpipe.postgres.migrations.running import run_sql_file

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    run_sql_file("0004_delays.sql")


def downgrade() -> None:
    run_sql_file("0004_delays_undo.sql")
