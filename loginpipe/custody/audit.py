"""Search the access log, and verify it from the first entry to the newest.

The hash chain is computed here, not by the audited database. Each hash covers the previous one, so a change of one
entry requires a change of all later ones. An anchor reveals even that: the number and hash of the newest entry at some
time, stored where those who can change the log have no access.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from loginpipe.common.errors import AuditError
from loginpipe.custody.access import require_subjects
from loginpipe.postgres.connections import Connection, fetch, transaction
from loginpipe.postgres.statements import statement

FIRST_HASH = bytes(32)
"""The previous hash of the first entry."""


@dataclass(frozen=True)
class Entry:
    """An entry of the access log as stored. Ids are text; subjects are a list, however they are stored."""

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


class Anchor(NamedTuple):
    """Number and hash of an entry. Number 0 is the empty log."""

    seq: int
    hash: bytes

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash.hex()}"


EMPTY = Anchor(0, FIRST_HASH)


@dataclass
class Verification:
    """The newest entry, the problems of the log in its order, and when its first and newest entry were written."""

    head: Anchor = EMPTY
    problems: list[str] = field(default_factory=list)
    times: tuple[datetime, datetime] | None = None


def parse_anchor(text: str) -> Anchor:
    """Parse an anchor as printed, ``SEQ:HASH``, or raise AuditError."""
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
    """Return the correct hash of an entry.

    It is SHA-256 over the parts in UTF-8: each as its length in bytes, a colon and the text, or ``-`` for None.
    Subjects are their number in brackets, then each as a part.
    """
    at = entry.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    before = [entry.previous_hash.hex(), str(entry.seq), at, entry.actor, entry.action, entry.request_id, entry.under]
    if entry.subjects is None:
        subjects = [_part(None)]
    else:
        subjects = [f"[{len(entry.subjects)}]".encode(), *map(_part, entry.subjects)]
    after = [entry.purpose, entry.ticket, entry.detail]
    return sha256(b"".join([*map(_part, before), *subjects, *map(_part, after)])).digest()


def verify_chain(entries: Iterable[Entry], anchors: Sequence[Anchor] = ()) -> Verification:
    """Verify entries, sorted by number, by recomputing every hash, and compare them with anchors stored elsewhere."""
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


class EntryFilter(NamedTuple):
    """The search conditions for entries. None means no condition.

    Entries that concern a token or message id include approvals of its requests. The limit keeps the newest entries.
    """

    actor: str | None = None
    token: str | None = None
    since: datetime | None = None
    limit: int | None = None


def find_entries(connection: Connection, wanted: EntryFilter) -> list[Entry]:
    """Return entries, newest first. Raise as `require_subjects`, before anything is sent."""
    digest = None
    if wanted.token is not None:
        require_subjects([wanted.token])
        digest = sha256(wanted.token.encode()).hexdigest()
    rows = fetch(connection, statement("access_log_search"), {**wanted._asdict(), "token_digest": digest})
    return [_entry(row) for row in rows]


def verify_log(
    connection: Connection, anchors: Sequence[Anchor] = (), progress: Callable[[int], None] = lambda _: None
) -> Verification:
    """Verify the whole log as of now, in constant memory. Call `progress` with the number of each entry.

    Raises:
        AuditError: an entry has a time that Postgres' clock cannot have given.
    """

    def entries() -> Iterator[Entry]:
        # A server-side cursor keeps the whole log out of memory.
        with transaction(connection), connection.cursor("access_log") as cursor:
            cursor.itersize = 2_000
            cursor.execute(statement("access_log_entries"))
            for row in cursor:
                progress(row[0])
                yield _entry(row)

    try:
        return verify_chain(entries(), anchors)
    except (ValueError, OverflowError):
        raise AuditError("the access log is not intact: an entry has no valid time; see docs/security.md") from None


def newest_entry(connection: Connection) -> int:
    """Return the number of the newest entry, or 0 if the log is empty."""
    ((seq,),) = fetch(connection, "SELECT coalesce(max(seq), 0) FROM vault.access_log")
    return int(seq)


def read_anchors(path: Path) -> list[Anchor]:
    """Read anchors, one per line. Raise AuditError if the file cannot be read, is empty, or contains something else."""
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
    """Append an anchor to a file, or raise AuditError. Keep the earlier ones too."""
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
