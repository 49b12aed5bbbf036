"""What is known of a dump beside the dump itself: when, of what, and what it must turn out to hold."""

import json
from datetime import datetime
from hashlib import file_digest
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from loginpipe.common.errors import BackupError

_SUFFIX = ".json"


class Manifest(BaseModel):
    """The manifest of a dump; it holds names and counts, no data.

    Attributes:
        taken_at: the moment that the dump shows, by the server's clock.
        database: the database's name.
        server_major: major version of the server that it was taken from.
        dump_major: major version of the ``pg_dump`` that wrote it.
        loginpipe_version: of the code that took it.
        revision: of the schema.
        roles: owners and grantees, which a server must have before it can be restored there; whether each may log in.
        rows: table, with its schema → rows. Of a partitioned table, each partition.
        sha256: of the dump, as ``sha256sum`` prints it.
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
        """Rows of all tables."""
        return sum(self.rows.values())

    def text(self) -> str:
        """Return what is written into the file."""
        return json.dumps(self.model_dump(mode="json"), indent=2) + "\n"


def manifest_path(dump: Path) -> Path:
    """Return where the manifest of a dump is."""
    return dump.with_name(dump.name + _SUFFIX)


def dump_name(database: str, taken_at: datetime) -> str:
    """Return the file name of a dump: sorts by time."""
    readable = "".join(character if character.isalnum() or character in "-_" else "_" for character in database)
    return f"{readable}-{taken_at:%Y%m%dT%H%M%SZ}.dump"


def read_manifest(dump: Path) -> Manifest:
    """Read the manifest of a dump.

    Raises:
        BackupError: it is missing, unreadable, or no manifest.
    """
    path = manifest_path(dump)
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BackupError(
            f"the manifest {path} cannot be read ({error.strerror}): without it nobody knows what {dump.name} should "
            "hold; bring it back, or take another backup"
        ) from None
    except ValidationError:
        raise BackupError(f"{path} is no manifest of a backup: bring back the one that was made with it") from None


def require_whole(dump: Path, manifest: Manifest) -> None:
    """Compare a dump with the size and the checksum in its manifest.

    Raises:
        BackupError: it cannot be read, or is another one than was written.
    """
    try:
        with dump.open("rb") as file:
            size = dump.stat().st_size
            found = file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BackupError(f"{dump} cannot be read ({error.strerror}): mend that") from None
    if size != manifest.file_bytes:
        raise BackupError(
            f"{dump} has {size:,} bytes and was written with {manifest.file_bytes:,}: use another copy, or another "
            "backup"
        )
    if found != manifest.sha256:
        raise BackupError(f"{dump} is damaged, its SHA-256 is not the manifest's: use another copy, or another backup")
