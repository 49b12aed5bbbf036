"""Allow old months of extras to be dropped, as retention does for ``user_logins``."""

from loginpipe.postgres.migrations.running import run_sql_file

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    run_sql_file("0014_extras_retention.sql")


def downgrade() -> None:
    run_sql_file("0014_extras_retention_undo.sql")
