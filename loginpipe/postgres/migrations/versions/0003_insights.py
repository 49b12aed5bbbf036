"""Create what analysts read besides ``user_logins``, by day: duplicates and daily counts."""

from loginpipe.postgres.migrations.running import run_sql_file

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    run_sql_file("0003_insights.sql")


def downgrade() -> None:
    run_sql_file("0003_insights_undo.sql")
