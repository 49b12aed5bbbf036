"""Count messages by batch instead of by run, because a run processes many batches."""

from loginpipe.postgres.migrations.running import run_sql_file

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    run_sql_file("0006_batches.sql")


def downgrade() -> None:
    run_sql_file("0006_batches_undo.sql")
