"""Prove that a backup can be restored: into a database made for that, which is dropped again."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import uuid4

import psycopg2
from psycopg2.extensions import make_dsn, parse_dsn

from loginpipe.backup.contents import require_rows
from loginpipe.backup.manifest import Manifest
from loginpipe.backup.restoring import load, require_no_older_server, require_usable
from loginpipe.common.errors import BackupError
from loginpipe.postgres.connections import Connection, connect, place, statement_error

_INSUFFICIENT_PRIVILEGE = "42501"


def verify_backup(database_url: str, dump: Path) -> Manifest:
    """Restore data and definitions of a dump into a database of its own, and compare the rows with its manifest.

    Owners and grants are left out, so that the server need not have the roles.

    Args:
        database_url: of a role with CREATEDB, on the server to use.
        dump: with its manifest beside it.

    Raises:
        BackupError: the backup is damaged or cannot be restored, or the role may not make a database.
        DatabaseError: the server cannot be used.
    """
    manifest = require_usable(dump)
    with closing(connect(database_url)) as connection:
        require_no_older_server(connection, manifest)
        with _scratch_database(connection, database_url) as scratch_url:
            load(scratch_url, dump, "--no-owner", "--no-privileges")
            with closing(connect(scratch_url)) as scratch:
                require_rows(scratch, manifest.rows)
    return manifest


@contextmanager
def _scratch_database(connection: Connection, database_url: str) -> Iterator[str]:
    """Make a database for the length of a block; gives its URL."""
    name = f"loginpipe_verify_{uuid4().hex}"
    connection.autocommit = True
    _execute(connection, f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
    try:
        yield make_dsn(**{**parse_dsn(database_url), "dbname": name})
    finally:
        _execute(connection, f"DROP DATABASE {name} WITH (FORCE)")


def _execute(connection: Connection, statement: str) -> None:
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
    except psycopg2.Error as error:
        if error.pgcode == _INSUFFICIENT_PRIVILEGE:
            raise BackupError(
                f"{connection.info.user} may not make a database to restore into at {place(connection)}: let an "
                "administrator give it CREATEDB, or name another server in LOGINPIPE_DATABASE_URL"
            ) from None
        raise statement_error(error) from None
