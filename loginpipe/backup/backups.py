"""Create a backup while the pipeline runs, and restore it, with ``pg_dump`` and ``pg_restore``.

A backup is a dump of the whole database and its manifest, both of one moment. It is restored into an empty database in
one transaction, or this is only proved to be possible.
"""

import json
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from uuid import uuid4

import psycopg2
from psycopg2.extensions import make_dsn, parse_dsn

from loginpipe.backup.manifest import (
    SNAPSHOT,
    Manifest,
    count_rows,
    dump_name,
    fingerprint,
    manifest_path,
    read_manifest,
    require_empty,
    require_roles,
    require_rows,
    require_whole,
)
from loginpipe.common.errors import BackupError
from loginpipe.postgres.connections import Connection, connect, place, rows_of, secured, statement_error, transaction
from loginpipe.postgres.grants import planned
from loginpipe.postgres.migrate import require_same_table, revision_of
from loginpipe.postgres.statements import statement

DUMP = "pg_dump"
RESTORE = "pg_restore"

_INSUFFICIENT_PRIVILEGE = "42501"
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")
# The text after the table name quotes the row.
_COPY_FAILED = re.compile(r'(COPY failed for table "[^"]*").*')


def create_backup(database_url: str, folder: Path) -> tuple[Path, Manifest]:
    """Dump the database into a new file of a folder, which is created if missing. Both files have mode 0600.

    The manifest is written last, so a dump without one is incomplete. The role must be able to read everything: the
    owner, or a member of ``pg_read_all_data``. Return the path of the dump, and its manifest.

    Raises:
        BackupError: ``pg_dump`` is missing, too old or failed, a table may not be read, or a file not written.
        DatabaseError: the database cannot be used, or its logins are in another table than LOGINPIPE_TABLE.
    """
    with closing(connect(database_url)) as connection:
        server_major = connection.server_version // 10_000
        dump_major = require_program(DUMP, at_least=server_major, because="the server")
        # So the dump and the counts show one moment, and no table is dropped in between.
        with transaction(connection, SNAPSHOT) as cursor:
            cursor.execute(statement("backup_without_timeouts"))
            revision = revision_of(cursor)
            if revision is None:
                raise BackupError(f"{place(connection)} was never migrated: there is nothing of loginpipe's to back up")
            require_same_table(cursor)
            ((taken_at, snapshot),) = rows_of(cursor, "SELECT now(), pg_export_snapshot()")
            rows, roles = count_rows(cursor), dict(rows_of(cursor, statement("backup_roles")))
            draft = _new_private_file(folder)
            try:
                run(DUMP, ["--format=custom", f"--snapshot={snapshot}", f"--file={draft}"], database_url)
                sha256, file_bytes = fingerprint(draft)
                manifest = Manifest(
                    taken_at=taken_at,
                    database=connection.info.dbname,
                    server_major=server_major,
                    dump_major=dump_major,
                    loginpipe_version=version("loginpipe"),
                    revision=revision,
                    roles=roles,
                    rows=rows,
                    sha256=sha256,
                    file_bytes=file_bytes,
                )
                dump = _published(draft, folder, manifest)
            finally:
                draft.unlink(missing_ok=True)
    return dump, manifest


def _new_private_file(folder: Path) -> Path:
    """Create an empty file for pg_dump that no other user can read."""
    draft = folder / f".{secrets.token_hex(8)}.partial"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as error:
        raise BackupError(
            f"nothing can be written to {folder} ({error.strerror}): fix its permissions, or name another folder"
        ) from None
    return draft


def _published(draft: Path, folder: Path, manifest: Manifest) -> Path:
    """Rename the dump to its final name and write its manifest, so that both survive a power loss."""
    dump = folder / dump_name(manifest.database, manifest.taken_at)
    try:
        # A link, unlike a rename, fails if the name is taken.
        os.link(draft, dump)
        with os.fdopen(os.open(manifest_path(dump), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(json.dumps(manifest.model_dump(mode="json"), indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        for path in (dump, folder):
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
    except FileExistsError:
        raise BackupError(f"{dump} exists, and nothing is overwritten: take another backup") from None
    except OSError as error:
        raise BackupError(f"{dump} cannot be written ({error.strerror}): fix that, and take another backup") from None
    return dump


def restore_backup(database_url: str, dump: Path) -> Manifest:
    """Restore a dump with its owners and grants into an empty database, and compare the rows with its manifest.

    The role must be a superuser or the owner of the backed-up database. The manifest is in the folder of the dump.

    Raises:
        BackupError: the backup is damaged, the database is not empty, roles are missing, or ``pg_restore`` is missing,
            too old or failed.
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
        _execute(connection, "ANALYZE")
    return manifest


def require_usable(dump: Path) -> Manifest:
    """Return a dump's manifest. Raise BackupError if it is damaged, or unreadable with this machine's programs."""
    manifest = read_manifest(dump)
    require_whole(dump, manifest)
    require_program(RESTORE, at_least=manifest.dump_major, because="the dump")
    run(RESTORE, ["--list", str(dump)])
    return manifest


def require_no_older_server(connection: Connection, manifest: Manifest) -> None:
    """Raise BackupError for a server with an older major version than the server of the dump."""
    major = connection.server_version // 10_000
    if major < manifest.server_major:
        raise BackupError(
            f"{place(connection)} is of PostgreSQL {major}, and the backup was taken from {manifest.server_major}: "
            "restore to that version or a newer one"
        )


def load(database_url: str, dump: Path, *options: str) -> None:
    """Run ``pg_restore`` in one transaction."""
    run(RESTORE, ["--single-transaction", "--exit-on-error", *options, str(dump)], database_url)


def _grant_on_the_database(connection: Connection) -> None:
    """Grant the roles, and only them, the rights on the database, which no dump has. Doctor names missing grants."""
    with transaction(connection) as cursor:
        ((database,),) = rows_of(cursor, "SELECT quote_ident(current_database())")
        for grant in sorted(planned(database)):
            if grant.object.startswith("DATABASE "):
                cursor.execute(grant.statement("GRANT", "TO"))
        cursor.execute("SELECT loginpipe.close_to_others()")


def verify_backup(database_url: str, dump: Path) -> Manifest:
    """Restore a dump into a temporary database, and compare the rows with its manifest.

    Owners and grants are left out, so that the server does not need the roles. Raise BackupError if the backup is
    damaged or cannot be restored, or the role may not create a database.
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
    """Create a database for a block, and yield its URL."""
    name = f"loginpipe_verify_{uuid4().hex}"
    connection.autocommit = True
    _execute(connection, f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
    try:
        yield make_dsn(**{**parse_dsn(database_url), "dbname": name})
    finally:
        _execute(connection, f"DROP DATABASE {name} WITH (FORCE)")


def _execute(connection: Connection, command: str) -> None:
    try:
        with connection.cursor() as cursor:
            cursor.execute(command)
    except psycopg2.Error as error:
        if error.pgcode == _INSUFFICIENT_PRIVILEGE:
            raise BackupError(
                f"{connection.info.user} may not make a database to restore into at {place(connection)}: let an "
                "administrator give it CREATEDB, or name another server in LOGINPIPE_DATABASE_URL"
            ) from None
        raise statement_error(error) from None


def require_program(name: str, *, at_least: int, because: str) -> int:
    """Return the major version of `DUMP` or `RESTORE` in PATH. Raise BackupError if it is missing or older.

    `because` is what has the version `at_least`, for the message, as in ``the server``.
    """
    fix = f"install the client programs of PostgreSQL {at_least} or newer, and put their folder first in PATH"
    path = shutil.which(name)
    if path is None:
        raise BackupError(f"{name} is not on this machine's PATH: {fix}")
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S603
    except OSError as error:
        raise BackupError(f"{path} cannot be run ({error.strerror}): {fix}") from None
    version = _VERSION.search(said)
    if version is None:
        raise BackupError(f"{path} does not say its version: {fix}")
    major = int(version[1])
    if major < at_least:
        raise BackupError(f"{path} is of PostgreSQL {major}, and {because} is of {at_least}: {fix}")
    return major


def run(name: str, arguments: Sequence[str], database_url: str | None = None) -> str:
    """Run `DUMP` or `RESTORE` to its end, and return its output. A password is passed in the environment.

    If it fails, raise BackupError with its first error, without any row.
    """
    target, environment = ([], {}) if database_url is None else _connection(database_url)
    done = subprocess.run(  # noqa: S603 - no shell
        [shutil.which(name) or name, *arguments, *target],
        # Messages in English, because their words are parsed.
        env={**os.environ, **environment, "LC_MESSAGES": "C", "LC_ALL": "C"},
        umask=0o077,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise BackupError(f"{name} failed: {_complaint(name, done.stderr)}")
    return done.stdout


def _connection(database_url: str) -> tuple[list[str], dict[str, str]]:
    parameters = secured(parse_dsn(database_url))
    password = parameters.pop("password", None)
    if "sslpassword" in parameters:
        raise BackupError(
            "the database URL holds sslpassword, which the other users of this machine could read on a command line: "
            "use a client key without a passphrase, in a file of mode 0600"
        )
    return (
        [f"--dbname={make_dsn(**parameters)}", "--no-password"],
        {} if password is None else {"PGPASSWORD": password},
    )


def _complaint(name: str, stderr: str) -> str:
    for line in stderr.splitlines():
        kind, _, words = line.removeprefix(f"{name}: ").partition(": ")
        if kind == "error":
            return _COPY_FAILED.sub(r"\1", words).strip()
    return "it gave no reason; run it again, and look at the server's log"
