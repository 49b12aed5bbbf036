"""Alembic's environment: it uses the connection of `loginpipe.postgres.migrate`, and its transaction."""

from alembic import context  # noqa: TID253  only Alembic loads this file

context.configure(connection=context.config.attributes["connection"], version_table_schema="loginpipe")
with context.begin_transaction():
    context.run_migrations()
