"""Restore a backup into an empty database, as it was: all of it or nothing."""

from contextlib import closing
from pathlib import Path

from loginpipe.backup.contents import require_empty, require_roles, require_rows
from loginpipe.backup.manifest import Manifest, read_manifest, require_whole
from loginpipe.backup.programs import RESTORE, require_program, run
from loginpipe.common.errors import BackupError
from loginpipe.postgres.connections import Connection, connect, place, transaction
from loginpipe.postgres.grants import planned


def restore_backup(database_url: str, dump: Path) -> Manifest:
    """Restore a dump, with its owners and grants, and compare the rows with its manifest.

    Args:
        database_url: an empty database, of a role that is a superuser, or the owner of what was backed up.
        dump: with its manifest beside it.

    Raises:
        BackupError: the backup is damaged, the database is not empty, roles are missing, or ``pg_restore`` is missing,
            too old or failed.
        DatabaseError: the database cannot be used.
    """
    manifest = require_usable(dump)
    with closing(connect(database_url)) as connection:
        require_no_older_server(connection, manifest)
        require_empty(connection)
        require_roles(connection, manifest.roles)
        load(database_url, dump)
        _grant_on_the_database(connection)
        require_rows(connection, manifest.rows)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")
    return manifest


def require_usable(dump: Path) -> Manifest:
    """Return the manifest of a dump that is whole, and that this machine's ``pg_restore`` can read.

    Raises:
        BackupError: it is not, or there is no such program.
    """
    manifest = read_manifest(dump)
    require_whole(dump, manifest)
    require_program(RESTORE, at_least=manifest.dump_major, because="the dump")
    run(RESTORE, ["--list", str(dump)])
    return manifest


def require_no_older_server(connection: Connection, manifest: Manifest) -> None:
    """Refuse a server of an older major version than the dump was taken from.

    Raises:
        BackupError: it is older.
    """
    major = connection.server_version // 10_000
    if major < manifest.server_major:
        raise BackupError(
            f"{place(connection)} is of PostgreSQL {major}, and the backup was taken from {manifest.server_major}: "
            "restore to that version or a newer one"
        )


def load(database_url: str, dump: Path, *options: str) -> None:
    """Run ``pg_restore`` in one transaction.

    Raises:
        BackupError: it failed; the database is as it was.
    """
    run(RESTORE, ["--single-transaction", "--exit-on-error", *options, str(dump)], database_url)


def _grant_on_the_database(connection: Connection) -> None:
    """Give the roles what is the database's own, and in no dump; where this role may not, doctor names it."""
    with transaction(connection) as cursor:
        cursor.execute("SELECT quote_ident(current_database())")
        ((database,),) = cursor.fetchall()
        for grant in sorted(planned(database)):
            if grant.object.startswith("DATABASE "):
                cursor.execute(grant.statement("GRANT", "TO"))
