"""The hash chain of the access log, computed here and not by the database whose log it is. Pure.

Each entry's hash covers the hash before it, so whoever changes an entry has to change all that follow. Whoever can do
that is found out by an anchor: number and hash of the newest entry at some moment, kept where they cannot reach it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256

from loginpipe.common.errors import AuditError

FIRST_HASH = bytes(32)
"""What the first entry is chained to."""


@dataclass(frozen=True)
class Entry:
    """An entry of the access log, as it is stored. Ids are text."""

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
        faults: what is wrong, one phrase each, in the order of the log; empty where it is intact.
        times: when the first and the newest entry were written.
    """

    head: Anchor = EMPTY
    faults: list[str] = field(default_factory=list)
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
        raise AuditError("an anchor is a number, a colon and 64 hex digits, as `loginpipe pii audit verify` prints it")
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
        anchors: what the log held earlier, by somebody else's keeping.
    """
    found = Verification()
    kept: dict[int, list[bytes]] = {}
    for anchor in anchors:
        kept.setdefault(anchor.seq, []).append(anchor.hash)
    found.faults += _off_anchor(EMPTY, kept)
    for entry in entries:
        found.faults += _faults(entry, found.head)
        found.head = Anchor(entry.seq, entry.hash)
        found.faults += _off_anchor(found.head, kept)
        found.times = (found.times[0] if found.times else entry.at, entry.at)
    if kept and max(kept) > found.head.seq:
        found.faults.append(f"the tail is cut off: the log ends with entry {found.head.seq}, and had {max(kept)}")
    return found


def _faults(entry: Entry, before: Anchor) -> Iterator[str]:
    gap = range(before.seq + 1, entry.seq)
    if gap:
        yield f"entry {gap[0]} is missing" if len(gap) == 1 else f"entries {gap[0]} to {gap[-1]} are missing"
    elif entry.previous_hash != before.hash:
        yield f"entry {entry.seq} is not chained to the one before it"
    if entry_hash(entry) != entry.hash:
        yield f"entry {entry.seq} was changed"


def _off_anchor(reached: Anchor, kept: dict[int, list[bytes]]) -> Iterator[str]:
    if any(digest != reached.hash for digest in kept.get(reached.seq, [])):
        yield f"the past was rewritten: entry {reached.seq} is not the one that was kept"


def _part(text: str | None) -> bytes:
    if text is None:
        return b"-"
    octets = text.encode()
    return f"{len(octets)}:".encode() + octets
