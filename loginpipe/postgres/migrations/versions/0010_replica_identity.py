"""Add replica identities, also to future partitions, so that published tables allow deletes."""

from loginpipe.postgres.migrations.running import run_sql_file

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    run_sql_file("0010_replica_identity.sql")


def downgrade() -> None:
    run_sql_file("0010_replica_identity_undo.sql")
