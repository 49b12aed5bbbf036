"""Count the content of a database, and keep the counts next to a dump in its manifest."""

from collections.abc import Mapping
from datetime import datetime
from hashlib import file_digest
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from loginpipe.common.errors import BackupError
from loginpipe.postgres.connections import Connection, Cursor, fetch, place, rows_of, transaction
from loginpipe.postgres.statements import statement

# The isolation level of a transaction that reads all of the database as of one moment.
SNAPSHOT = "REPEATABLE READ READ ONLY"


class Manifest(BaseModel):
    """The manifest of a dump. It holds names and counts, no data.

    Attributes:
        taken_at: the moment that the dump shows, by the server's clock.
        server_major, dump_major: major versions of the server and of ``pg_dump``.
        loginpipe_version: of the code that created the backup.
        revision: of the schema.
        roles: owners and grantees → True if the role may log in. A server needs them before a restore.
        rows: table with its schema → number of rows. For a partitioned table, each partition.
        sha256, file_bytes: checksum of the dump, as ``sha256sum`` prints it, and its size.
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


def manifest_path(dump: Path) -> Path:
    """Return the path of a dump's manifest."""
    return dump.with_name(dump.name + ".json")


def dump_name(database: str, taken_at: datetime) -> str:
    """Return the file name of a dump. Names sort by time."""
    readable = "".join(character if character.isalnum() or character in "-_" else "_" for character in database)
    return f"{readable}-{taken_at:%Y%m%dT%H%M%SZ}.dump"


def read_manifest(dump: Path) -> Manifest:
    """Read the manifest of a dump. Raise BackupError if it is missing, unreadable or invalid."""
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
    """Raise BackupError if a dump cannot be read, or has not the size and checksum in its manifest."""
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


def count_rows(cursor: Cursor) -> dict[str, int]:
    """Count the tables that a dump would hold, as in `Manifest`. Raise BackupError if the role may not read one."""
    tables = rows_of(cursor, statement("backup_tables"))
    unreadable = [table for table, readable in tables if not readable]
    if unreadable:
        ((role,),) = rows_of(cursor, "SELECT current_user")
        raise BackupError(
            f"{role} may not read {unreadable[0]} ({len(unreadable)} of {len(tables)} tables): back up as the owner, "
            f"or let an administrator run `GRANT pg_read_all_data TO {role}`"
        )
    rows = {}
    for table, _ in tables:
        # The catalog returns the name quoted.
        ((rows[table],),) = rows_of(cursor, f"SELECT count(*) FROM ONLY {table}")  # noqa: S608
    return rows


def require_rows(connection: Connection, expected: Mapping[str, int]) -> None:
    """Raise BackupError if a table of a restored database is missing, unexpected, or has another number of rows."""
    with transaction(connection, SNAPSHOT) as cursor:
        found = count_rows(cursor)
    wrong = [table for table in sorted({*expected, *found}) if found.get(table) != expected.get(table)]
    if wrong:
        table = wrong[0]
        raise BackupError(
            f"{place(connection)} is not what was backed up: {table} has {_rows(found.get(table))}, the manifest says "
            f"{_rows(expected.get(table))} ({len(wrong)} tables differ): use another backup"
        )


def require_empty(connection: Connection) -> None:
    """Raise BackupError if a database contains anything except objects of Postgres or of extensions."""
    ((objects, first),) = fetch(connection, statement("backup_in_the_way"))
    if objects:
        raise BackupError(
            f"{place(connection)} is not empty ({objects:,} objects, {first} among them), and nothing is overwritten: "
            "make a new database, and set LOGINPIPE_DATABASE_URL to it"
        )


def require_roles(connection: Connection, roles: Mapping[str, bool]) -> None:
    """Raise BackupError if the server lacks roles that own the content of the backup or have grants on it."""
    missing = fetch(connection, statement("backup_missing_roles"), {"roles": list(roles)})
    if missing:
        statements = "; ".join(f"CREATE ROLE {name} {'LOGIN' if roles[role] else 'NOLOGIN'}" for role, name in missing)
        raise BackupError(
            f"{place(connection)} is on a server without {len(missing)} of the roles that the backup needs, which are "
            f"the server's and in no dump: let an administrator run `{statements}`, then restore again"
        )


def _rows(count: int | None) -> str:
    return "no such table" if count is None else f"{count:,} rows"
