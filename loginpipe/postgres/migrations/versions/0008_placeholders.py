"""Store the tokens of placeholders, and leave them out of duplicates."""

from loginpipe.postgres.migrations.running import run_sql_file

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    run_sql_file("0008_placeholders.sql")


def downgrade() -> None:
    run_sql_file("0008_placeholders_undo.sql")
