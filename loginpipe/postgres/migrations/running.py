"""Shared by migrations: the driver's connection, and running a file of SQL unchanged."""

from pathlib import Path

from alembic import op  # noqa: TID253  only migrations load this file

from loginpipe.postgres.connections import Connection, for_logins_table

_VERSIONS = Path(__file__).with_name("versions")


def driver_connection() -> Connection:
    """Return psycopg2's connection, inside the migration's transaction."""
    connection = op.get_bind().connection.driver_connection
    assert isinstance(connection, Connection)  # noqa: S101  `migrate` made it
    return connection


def sql_file(name: str) -> str:
    """Return the text of a file of ``versions/``, for the table of `loginpipe.common.logins_table`."""
    text = _VERSIONS.joinpath(name).read_text(encoding="utf-8")
    # The database's encoding may lack the one character that is not ASCII.
    return for_logins_table(text.replace("…", "..."))


def run_sql_file(name: str) -> None:
    """Run a file of ``versions/`` directly on the driver, because SQLAlchemy would interpret ``:`` and ``%`` in it."""
    with driver_connection().cursor() as cursor:
        cursor.execute(sql_file(name))
