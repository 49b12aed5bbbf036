"""The access log as an auditor reads it: searched, and verified from its first entry to its newest."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from loginpipe.common.errors import AuditError
from loginpipe.custody.audit_chain import Anchor, Entry, Verification, parse_anchor, verify_chain
from loginpipe.postgres.connections import Connection, transaction
from loginpipe.postgres.statements import statement

_ROWS_AT_ONCE = 2_000


@dataclass(frozen=True)
class EntryFilter:
    """Which entries to look at; what is None does not narrow.

    Attributes:
        actor: of this role.
        token: about this token or message id, the approvals of its requests among them.
        since: written at this time or later.
        most: the newest so many.
    """

    actor: str | None = None
    token: str | None = None
    since: datetime | None = None
    most: int | None = None


def find_entries(connection: Connection, wanted: EntryFilter) -> list[Entry]:
    """Return entries, the newest first.

    Raises:
        DatabaseError: as `transaction`.
    """
    with transaction(connection) as cursor:
        cursor.execute(statement("access_log_search"), asdict(wanted))
        return [_entry(row) for row in cursor]


def verify_log(
    connection: Connection, anchors: Sequence[Anchor] = (), progress: Callable[[int], None] = lambda _: None
) -> Verification:
    """Verify the whole log, as it is at this moment, however long it is.

    Args:
        connection: with no transaction open.
        anchors: heads of earlier verifications, kept elsewhere.
        progress: told the number of each entry in turn.

    Raises:
        AuditError: a time in it is none that Postgres' clock can have shown.
        DatabaseError: as `transaction`.
    """

    def entries() -> Iterator[Entry]:
        # On the server's side, so that the log is never in memory as a whole.
        with transaction(connection), connection.cursor("access_log") as cursor:
            cursor.itersize = _ROWS_AT_ONCE
            cursor.execute(statement("access_log_entries"))
            for row in cursor:
                progress(row[0])
                yield _entry(row)

    try:
        return verify_chain(entries(), anchors)
    except (ValueError, OverflowError):
        raise AuditError("the access log is not intact: the time of an entry is none; see docs/security.md") from None


def newest_entry(connection: Connection) -> int:
    """Return the number of the newest entry; 0 where there is none."""
    with transaction(connection) as cursor:
        cursor.execute("SELECT coalesce(max(seq), 0) FROM vault.access_log")
        ((seq,),) = cursor.fetchall()
        return int(seq)


def read_anchors(path: Path) -> list[Anchor]:
    """Read anchors, one a line.

    Raises:
        AuditError: the file cannot be read, or holds anything else or nothing.
    """
    try:
        lines = path.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError):
        raise AuditError(
            f"the anchors in {path} cannot be read: mend that; the first one is made by --write-anchor alone"
        ) from None
    if not lines:
        raise AuditError(f"{path} holds no anchor: was it emptied?")
    return [parse_anchor(line) for line in lines]


def add_anchor(path: Path, anchor: Anchor) -> None:
    """Add an anchor to a file; the earlier ones stay and are worth keeping.

    Raises:
        AuditError: it cannot be written.
    """
    try:
        with path.open("a", encoding="ascii") as file:
            file.write(f"{anchor}\n")
    except OSError as error:
        raise AuditError(f"the anchor cannot be written to {path} ({error.strerror}): mend that") from None


def _entry(row: tuple[Any, ...]) -> Entry:
    cells: list[Any] = [bytes(cell) if isinstance(cell, memoryview) else cell for cell in row]
    return Entry(*cells)
