"""Count the content of a database, and keep the counts next to a dump in its manifest."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import file_digest
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from loginpipe.common.errors import BackupError
from loginpipe.postgres.connections import Connection, Cursor, place, transaction
from loginpipe.postgres.statements import statement

_SUFFIX = ".json"


class Manifest(BaseModel):
    """The manifest of a dump. It holds names and counts, no data.

    Attributes:
        taken_at: the moment that the dump shows, by the server's clock.
        database: name of the database.
        server_major: major version of the server.
        dump_major: major version of ``pg_dump``.
        loginpipe_version: version of the code that created the backup.
        revision: revision of the schema.
        roles: owners and grantees → True if the role may log in. A server needs them before a restore.
        rows: table with its schema → number of rows. For a partitioned table, each partition.
        sha256: checksum of the dump, as ``sha256sum`` prints it.
        file_bytes: size of the dump.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    taken_at: AwareDatetime
    database: str
    server_major: int
    dump_major: int
    loginpipe_version: str
    revision: str
    roles: dict[str, bool]
    rows: dict[str, int]
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    file_bytes: int

    @property
    def total_rows(self) -> int:
        """The number of rows of all tables."""
        return sum(self.rows.values())

    def text(self) -> str:
        """Return the content of the manifest file."""
        return json.dumps(self.model_dump(mode="json"), indent=2) + "\n"


def manifest_path(dump: Path) -> Path:
    """Return the path of a dump's manifest."""
    return dump.with_name(dump.name + _SUFFIX)


def dump_name(database: str, taken_at: datetime) -> str:
    """Return the file name of a dump. Names sort by time."""
    readable = "".join(character if character.isalnum() or character in "-_" else "_" for character in database)
    return f"{readable}-{taken_at:%Y%m%dT%H%M%SZ}.dump"


def read_manifest(dump: Path) -> Manifest:
    """Read the manifest of a dump.

    Raises:
        BackupError: the manifest is missing, unreadable or invalid.
    """
    path = manifest_path(dump)
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BackupError(
            f"the manifest {path} cannot be read ({error.strerror}): it says what {dump.name} "
            "should hold; bring it back, or take another backup"
        ) from None
    except ValidationError:
        raise BackupError(f"{path} is no manifest of a backup: bring back the one that was made with it") from None


def fingerprint(dump: Path) -> tuple[str, int]:
    """Return the SHA-256 (hex) and the size of a dump."""
    with dump.open("rb") as file:
        return file_digest(file, "sha256").hexdigest(), dump.stat().st_size


def require_whole(dump: Path, manifest: Manifest) -> None:
    """Compare a dump with the size and checksum in its manifest.

    Raises:
        BackupError: the dump cannot be read, or differs.
    """
    try:
        found, size = fingerprint(dump)
    except OSError as error:
        raise BackupError(f"{dump} cannot be read ({error.strerror}): fix its path or its permissions") from None
    if size != manifest.file_bytes:
        raise BackupError(
            f"{dump} has {size:,} bytes and was written with {manifest.file_bytes:,}: use another copy, or another "
            "backup"
        )
    if found != manifest.sha256:
        raise BackupError(f"{dump} is damaged, its SHA-256 is not the manifest's: use another copy, or another backup")


@dataclass(frozen=True)
class Contents:
    """The content of a database at one moment.

    Attributes:
        taken_at: the moment, by the server's clock.
        rows: table with its schema → number of rows, as in `Manifest`.
        roles: owners and grantees → True if the role may log in.
    """

    taken_at: datetime
    rows: Mapping[str, int]
    roles: Mapping[str, bool]


def read_contents(cursor: Cursor) -> Contents:
    """Count every table that a dump would hold, at one moment if the transaction is REPEATABLE READ.

    Raises:
        BackupError: the role may not read a table.
    """
    cursor.execute("SELECT now()")
    ((taken_at,),) = cursor.fetchall()
    cursor.execute(statement("backup_tables"))
    tables = cursor.fetchall()
    unreadable = [table for table, readable in tables if not readable]
    if unreadable:
        cursor.execute("SELECT current_user")
        ((role,),) = cursor.fetchall()
        raise BackupError(
            f"{role} may not read {unreadable[0]} ({len(unreadable)} of {len(tables)} tables): back up as the owner, "
            f"or let an administrator run `GRANT pg_read_all_data TO {role}`"
        )
    rows = {}
    for table, _ in tables:
        # The catalog returns the name quoted.
        cursor.execute(f"SELECT count(*) FROM ONLY {table}")  # noqa: S608
        ((rows[table],),) = cursor.fetchall()
    cursor.execute(statement("backup_roles"))
    return Contents(taken_at, rows, dict(cursor.fetchall()))


def require_rows(connection: Connection, expected: Mapping[str, int]) -> None:
    """Compare the rows of a restored database with its manifest.

    Raises:
        BackupError: a table is missing, unexpected, or has another number of rows.
    """
    with transaction(connection) as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        found = read_contents(cursor).rows
    wrong = [table for table in sorted({*expected, *found}) if found.get(table) != expected.get(table)]
    if wrong:
        table = wrong[0]
        raise BackupError(
            f"{place(connection)} is not what was backed up: {table} has {_rows(found.get(table))}, the manifest says "
            f"{_rows(expected.get(table))} ({len(wrong)} tables differ): use another backup"
        )


def require_empty(connection: Connection) -> None:
    """Refuse a database that contains anything except objects of Postgres or of extensions.

    Raises:
        BackupError: the database contains other objects.
    """
    with transaction(connection) as cursor:
        cursor.execute(statement("backup_in_the_way"))
        ((objects, first),) = cursor.fetchall()
    if objects:
        raise BackupError(
            f"{place(connection)} is not empty ({objects:,} objects, {first} among them), and nothing is overwritten: "
            "make a new database, and set LOGINPIPE_DATABASE_URL to it"
        )


def require_roles(connection: Connection, roles: Mapping[str, bool]) -> None:
    """Check that the server has the roles that own the content of the backup or have grants on it.

    Raises:
        BackupError: roles are missing. The message has the statements that create them.
    """
    with transaction(connection) as cursor:
        cursor.execute(
            "SELECT name, quote_ident(name) FROM unnest(%s) AS wanted (name) "
            "WHERE to_regrole(quote_ident(name)) IS NULL ORDER BY name",
            (list(roles),),
        )
        missing = cursor.fetchall()
    if missing:
        statements = "; ".join(f"CREATE ROLE {name} {'LOGIN' if roles[role] else 'NOLOGIN'}" for role, name in missing)
        raise BackupError(
            f"{place(connection)} is on a server without {len(missing)} of the roles that the backup needs, which are "
            f"the server's and in no dump: let an administrator run `{statements}`, then restore again"
        )


def _rows(count: int | None) -> str:
    return "no such table" if count is None else f"{count:,} rows"
