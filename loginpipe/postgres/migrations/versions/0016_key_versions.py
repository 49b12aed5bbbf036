"""Require a proof to record a version of the token key, so that the pipeline's login alone is not enough."""

from loginpipe.postgres.migrations.running import run_sql_file

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    run_sql_file("0016_key_versions.sql")


def downgrade() -> None:
    run_sql_file("0016_key_versions_undo.sql")
