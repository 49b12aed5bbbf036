"""The access log as an auditor reads it: searched, and verified from its first entry to its newest.

The hash chain is computed here and not by the database whose log it is. Each entry's hash covers the hash before it, so
whoever changes an entry has to change all that follow. Whoever can do that is found out by an anchor: number and hash
of the newest entry at some moment, kept where they cannot reach it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from loginpipe.common.errors import AuditError
from loginpipe.custody.access import require_subjects
from loginpipe.postgres.connections import Connection, transaction
from loginpipe.postgres.statements import statement

FIRST_HASH = bytes(32)
"""What the first entry is chained to."""


@dataclass(frozen=True)
class Entry:
    """An entry of the access log, as it is stored. Ids are text; subjects are a list, however they are stored."""

    seq: int
    at: datetime
    actor: str
    action: str
    request_id: str | None
    under: str | None
    subjects: Sequence[str | None] | None
    purpose: str | None
    ticket: str | None
    detail: str | None
    previous_hash: bytes
    hash: bytes


@dataclass(frozen=True)
class Anchor:
    """Number and hash of an entry; number 0 stands for the empty log."""

    seq: int
    hash: bytes

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash.hex()}"


EMPTY = Anchor(0, FIRST_HASH)


@dataclass
class Verification:
    """What a walk along the chain found.

    Attributes:
        head: the newest entry.
        problems: what is wrong, one phrase each, in the order of the log; empty where it is intact.
        times: when the first and the newest entry were written.
    """

    head: Anchor = EMPTY
    problems: list[str] = field(default_factory=list)
    times: tuple[datetime, datetime] | None = None


def parse_anchor(text: str) -> Anchor:
    """Read an anchor as it is printed, ``SEQ:HASH``.

    Raises:
        AuditError: it is none.
    """
    number, _, digest = text.strip().partition(":")
    try:
        anchor = Anchor(int(number), bytes.fromhex(digest))
    except ValueError:
        anchor = Anchor(-1, b"")
    if anchor.seq < 0 or len(anchor.hash) != len(FIRST_HASH):
        raise AuditError(
            "an anchor must be a number, a colon and 64 hex digits: copy it from `loginpipe pii audit verify`"
        )
    return anchor


def entry_hash(entry: Entry) -> bytes:
    """Return the hash that an entry ought to have.

    SHA-256 over the UTF-8 of its parts, each as its length in octets, a colon and the text, or ``-`` where there is
    none; subjects as their number in brackets and each of them.
    """
    at = entry.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    parts = [_part(entry.previous_hash.hex()), _part(str(entry.seq)), _part(at), _part(entry.actor)]
    parts += [_part(entry.action), _part(entry.request_id), _part(entry.under)]
    if entry.subjects is None:
        parts.append(_part(None))
    else:
        parts += [f"[{len(entry.subjects)}]".encode(), *map(_part, entry.subjects)]
    parts += [_part(entry.purpose), _part(entry.ticket), _part(entry.detail)]
    return sha256(b"".join(parts)).digest()


def verify_chain(entries: Iterable[Entry], anchors: Sequence[Anchor] = ()) -> Verification:
    """Walk along the log from its first entry, recomputing every hash.

    Args:
        entries: in the order of their numbers.
        anchors: what the log held earlier, as kept elsewhere.
    """
    found = Verification()
    kept: dict[int, list[bytes]] = {}
    for anchor in anchors:
        kept.setdefault(anchor.seq, []).append(anchor.hash)
    found.problems += _off_anchor(EMPTY, kept)
    for entry in entries:
        found.problems += _problems(entry, found.head)
        found.head = Anchor(entry.seq, entry.hash)
        found.problems += _off_anchor(found.head, kept)
        found.times = (found.times[0] if found.times else entry.at, entry.at)
    if kept and max(kept) > found.head.seq:
        found.problems.append(
            f"entries were cut off at the end: the last entry is {found.head.seq}, and the log had {max(kept)}"
        )
    return found


def _problems(entry: Entry, before: Anchor) -> Iterator[str]:
    gap = range(before.seq + 1, entry.seq)
    if gap:
        yield f"entry {gap[0]} is missing" if len(gap) == 1 else f"entries {gap[0]} to {gap[-1]} are missing"
    elif entry.previous_hash != before.hash:
        yield f"entry {entry.seq} does not continue the chain of the entry before it"
    if entry_hash(entry) != entry.hash:
        yield f"entry {entry.seq} was changed"


def _off_anchor(reached: Anchor, kept: dict[int, list[bytes]]) -> Iterator[str]:
    if any(digest != reached.hash for digest in kept.get(reached.seq, [])):
        yield f"the log was rewritten: entry {reached.seq} differs from the anchor"


def _part(text: str | None) -> bytes:
    if text is None:
        return b"-"
    octets = text.encode()
    return f"{len(octets)}:".encode() + octets


_ROWS_AT_ONCE = 2_000


@dataclass(frozen=True)
class EntryFilter:
    """Which entries to look at; what is None does not narrow.

    Attributes:
        actor: of this role.
        token: about this token or message id, the approvals of its requests among them.
        since: written at this time or later.
        limit: the newest so many.
    """

    actor: str | None = None
    token: str | None = None
    since: datetime | None = None
    limit: int | None = None


def find_entries(connection: Connection, wanted: EntryFilter) -> list[Entry]:
    """Return entries, the newest first.

    Raises:
        LoginpipeError: what they are to be about has not the form of a token or message id; nothing was sent.
    """
    if wanted.token is not None:
        require_subjects([wanted.token])
    with transaction(connection) as cursor:
        digest = sha256(wanted.token.encode()).hexdigest() if wanted.token is not None else None
        cursor.execute(statement("access_log_search"), {**asdict(wanted), "token_digest": digest})
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
        raise AuditError("the access log is not intact: an entry has no valid time; see docs/security.md") from None


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
            f"the anchors in {path} cannot be read: fix path or file; for the first one use --write-anchor alone"
        ) from None
    if not lines:
        raise AuditError(f"{path} has no anchor: check whether it was emptied")
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
        raise AuditError(
            f"cannot write the anchor to {path} ({error.strerror}): fix its path or its permissions"
        ) from None


def _entry(row: tuple[Any, ...]) -> Entry:
    cells: list[Any] = [bytes(cell) if isinstance(cell, memoryview) else cell for cell in row]
    return Entry(*cells)
