"""The hash chain of the access log: what breaks it, and what only an anchor detects."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from loginpipe.common.errors import AuditError
from loginpipe.custody.audit import EMPTY, Anchor, Entry, entry_hash, parse_anchor, verify_chain

AT = datetime(2026, 11, 21, 12, 0, 0, 7, UTC)
KNOWN = Entry(
    seq=1,
    at=AT,
    actor="alice",
    action="request",
    request_id="7f0c3f6e-3c1b-4a35-9d3e-5b9f2f3f9b11",
    under=None,
    subjects=["ip.v1.é", "-"],
    purpose="because of 7:things",
    ticket="SEC-1",
    detail=None,
    previous_hash=bytes(32),
    hash=b"",
)


def log(number: int, **changed: Any) -> list[Entry]:
    """Return a log of ``number`` entries, chained as the database does."""
    entries: list[Entry] = []
    for seq in range(1, number + 1):
        entry = replace(KNOWN, seq=seq, at=AT + timedelta(seconds=seq), detail=f"entry {seq}", **changed)
        entries.append(chained(entry, entries[-1].hash if entries else bytes(32)))
    return entries


def chained(entry: Entry, before: bytes) -> Entry:
    entry = replace(entry, previous_hash=before)
    return replace(entry, hash=entry_hash(entry))


def anchor(entry: Entry) -> Anchor:
    return Anchor(entry.seq, entry.hash)


def test_the_hash_is_of_exactly_these_octets() -> None:
    from hashlib import sha256

    octets = (
        "64:" + "00" * 32 + "1:127:2026-11-21T12:00:00.000007Z5:alice7:request36:7f0c3f6e-3c1b-4a35-9d3e-5b9f2f3f9b11-"
        "[2]8:ip.v1.é1:-19:because of 7:things5:SEC-1-"
    ).encode()
    assert entry_hash(KNOWN) == sha256(octets).digest()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"purpose": None}, {"purpose": "-"}),
        ({"purpose": None, "ticket": "x"}, {"purpose": "x", "ticket": None}),
        ({"subjects": None}, {"subjects": []}),
        ({"subjects": ["a", "b"]}, {"subjects": ["ab"]}),
        ({"subjects": ["a"], "purpose": "b"}, {"subjects": ["a", "b"], "purpose": ""}),
        ({"purpose": "a1:b", "ticket": ""}, {"purpose": "a", "ticket": "b"}),
        ({"subjects": [None]}, {"subjects": ["-"]}),
    ],
    ids=lambda changed: " ".join(f"{name}={value!r}" for name, value in changed.items()),
)
def test_no_two_entries_that_differ_have_one_hash(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert entry_hash(replace(KNOWN, **one)) != entry_hash(replace(KNOWN, **other))


def test_the_same_moment_in_another_zone_is_the_same_moment() -> None:
    from datetime import timezone

    elsewhere = AT.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert entry_hash(replace(KNOWN, at=elsewhere)) == entry_hash(KNOWN)


@pytest.mark.parametrize("number", [0, 1, 5])
def test_an_intact_log_has_a_head_and_no_problems(number: int) -> None:
    entries = log(number)
    found = verify_chain(entries, [EMPTY, *map(anchor, entries)])
    assert found.problems == []
    assert found.head == (anchor(entries[-1]) if entries else EMPTY)


@pytest.mark.parametrize(
    "changed",
    [
        {"actor": "bob"},
        {"action": "release"},
        {"request_id": None},
        {"under": KNOWN.request_id},
        {"subjects": ["ip.v1.é"]},
        {"purpose": "because of 8:things"},
        {"ticket": "SEC-2"},
        {"detail": None},
        {"at": AT},
        {"hash": bytes(32)},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_an_entry_that_was_changed_is_named(changed: dict[str, Any]) -> None:
    entries = log(5)
    entries[2] = replace(entries[2], **changed)
    problems = verify_chain(entries).problems
    assert problems[0] == "entry 3 was changed"
    assert len(problems) == (2 if "hash" in changed else 1)


def test_an_entry_that_was_changed_and_hashed_anew_no_longer_carries_the_next_one() -> None:
    entries = log(5)
    entries[2] = chained(replace(entries[2], actor="bob"), entries[1].hash)
    assert verify_chain(entries).problems == ["entry 4 does not continue the chain of the entry before it"]


@pytest.mark.parametrize(
    ("removed", "said"),
    [
        ([0], "entry 1 is missing"),
        ([1, 2], "entries 2 to 3 are missing"),
        ([0, 1, 2, 3], "entries 1 to 4 are missing"),
    ],
    ids=["the first", "two in the middle", "all but the last"],
)
def test_entries_that_were_removed_are_named(removed: list[int], said: str) -> None:
    entries = [entry for place, entry in enumerate(log(5)) if place not in removed]
    assert verify_chain(entries).problems == [said]


def test_entries_that_were_removed_and_the_rest_counted_anew_show_all_the_same() -> None:
    entries = log(5)
    del entries[1]
    entries = [replace(entry, seq=seq) for seq, entry in enumerate(entries, 1)]
    problems = verify_chain(entries).problems
    assert problems[0] == "entry 2 does not continue the chain of the entry before it"
    assert "entry 2 was changed" in problems


@pytest.mark.parametrize("left", [0, 3])
def test_a_tail_that_was_cut_off_shows_against_an_anchor_alone(left: int) -> None:
    entries = log(5)
    head = anchor(entries[-1])
    assert verify_chain(entries[:left]).problems == []
    assert verify_chain(entries[:left], [head]).problems == [
        f"entries were cut off at the end: the last entry is {left}, and the log had 5"
    ]


def test_a_past_that_was_written_anew_shows_against_an_anchor_alone() -> None:
    honest, forged = log(5), log(6, actor="bob")
    assert verify_chain(forged).problems == []
    assert verify_chain(forged, [anchor(honest[3])]).problems == [
        "the log was rewritten: entry 4 differs from the anchor"
    ]
    assert len(verify_chain(forged, [anchor(entry) for entry in honest]).problems) == 5


def test_an_anchor_is_read_as_it_is_printed() -> None:
    head = anchor(log(2)[-1])
    assert parse_anchor(str(head)) == head
    assert parse_anchor(f"  {head}\n") == head
    assert parse_anchor(str(EMPTY)) == EMPTY


@pytest.mark.parametrize("text", ["", ":", "1", "1:", "1:abcd", f"-1:{'0' * 64}", f"x:{'0' * 64}", f"1:{'g' * 64}"])
def test_what_is_no_anchor_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(AuditError, match=r"^an anchor must be a number, a colon and 64 hex digits"):
        parse_anchor(text)
