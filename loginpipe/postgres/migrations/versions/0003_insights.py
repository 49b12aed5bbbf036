"""What analysts read beside ``user_logins``: duplicates and daily counts, a row set a day."""

from loginpipe.postgres.migrations.running import run_sql_file

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    run_sql_file("0003_insights.sql")


def downgrade() -> None:
    run_sql_file("0003_insights_undo.sql")
