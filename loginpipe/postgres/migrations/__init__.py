"""The warehouse's schema as Alembic migrations: ``versions/`` holds one Python file each, with its SQL beside it.

`loginpipe.postgres.migrate` runs them; there is no ``alembic.ini``. Partitions are created and dropped by date, not by
migrations.
"""

from pathlib import Path

from alembic import op  # noqa: TID253  only migrations import this package

from loginpipe.postgres.connections import Connection
from loginpipe.postgres.statements import for_logins_table


def driver_connection() -> Connection:
    """Return psycopg2's connection, inside the migration's transaction."""
    connection = op.get_bind().connection.driver_connection
    assert isinstance(connection, Connection)  # noqa: S101  `migrate` made it
    return connection


def sql_file(path: Path) -> str:
    """Return the text of a file of SQL, for the table of `loginpipe.common.logins_table`."""
    return for_logins_table(path.read_text(encoding="ascii"))  # the database's encoding may lack other characters


def run_sql_file(path: Path) -> None:
    """Run a file of SQL directly on the driver, because SQLAlchemy would interpret ``:`` and ``%`` in it."""
    with driver_connection().cursor() as cursor:
        cursor.execute(sql_file(path))
