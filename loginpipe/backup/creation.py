"""Create a backup: a dump of the whole database and its manifest, both of one moment, while the pipeline runs."""

import os
import secrets
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

from loginpipe.backup.manifest import Manifest, dump_name, fingerprint, manifest_path, read_contents
from loginpipe.backup.programs import DUMP, require_program, run
from loginpipe.common.errors import BackupError
from loginpipe.postgres.connections import connect, place, transaction
from loginpipe.postgres.migrate import require_same_table, revision_of


def create_backup(database_url: str, folder: Path) -> tuple[Path, Manifest]:
    """Dump the database into a new file of a folder, which is created if missing. Both files have mode 0600.

    The manifest is written last, so a dump without one is incomplete.

    Args:
        database_url: of a role that may read everything: the owner, or a member of ``pg_read_all_data``.
        folder: the folder of the two files.

    Returns:
        The path of the dump, and its manifest.

    Raises:
        BackupError: ``pg_dump`` is missing, too old or failed, a table may not be read, or a file not written.
        DatabaseError: the database cannot be used, or its logins are in another table than LOGINPIPE_TABLE.
    """
    with closing(connect(database_url)) as connection:
        server_major = connection.server_version // 10_000
        dump_major = require_program(DUMP, at_least=server_major, because="the server")
        with transaction(connection) as cursor:
            # So the dump and the counts show one moment, and no table is dropped in between.
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            cursor.execute(
                "SELECT set_config(name, '0', true) FROM pg_settings WHERE name IN "
                "('statement_timeout', 'transaction_timeout', 'idle_in_transaction_session_timeout')"
            )
            revision = revision_of(cursor)
            if revision is None:
                raise BackupError(f"{place(connection)} was never migrated: there is nothing of loginpipe's to back up")
            require_same_table(cursor)
            contents = read_contents(cursor)
            cursor.execute("SELECT pg_export_snapshot()")
            ((snapshot,),) = cursor.fetchall()
            draft = _new_private_file(folder)
            try:
                options = ["--format=custom", f"--snapshot={snapshot}", f"--file={draft}"]
                run(DUMP, options, database_url)
                sha256, file_bytes = fingerprint(draft)
                manifest = Manifest(
                    taken_at=contents.taken_at,
                    database=connection.info.dbname,
                    server_major=server_major,
                    dump_major=dump_major,
                    loginpipe_version=version("loginpipe"),
                    revision=revision,
                    roles=dict(contents.roles),
                    rows=dict(contents.rows),
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
            file.write(manifest.text())
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
