"""Verification of the access log outside the database: it detects what the owner or a superuser changes."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from loginpipe.common.errors import AccessRefusedError, AuditError, DatabaseError
from loginpipe.custody.access import Reason, approve, release, request_access, set_second_person
from loginpipe.custody.audit import (
    EMPTY,
    Anchor,
    EntryFilter,
    add_anchor,
    find_entries,
    newest_entry,
    read_anchors,
    verify_log,
)
from loginpipe.postgres.connections import Connection
from loginpipe_tests.custody import REASON, Store, bulk, connected, erased
from loginpipe_tests.wire import login

AS_SUPERUSER = "SET LOCAL session_replication_role = replica; ALTER TABLE vault.access_log DISABLE TRIGGER USER; "


@pytest.fixture
def busy(
    store: Store, owner: Connection, custodian: Connection, second_custodian: Connection
) -> tuple[Store, tuple[str, str]]:
    """Return a store whose log has an entry of every kind, and the tokens in these entries."""
    (tokens,) = store.load(login(user_id="é\u2028😀"))
    first = request_access(custodian, tokens, Reason("é\u2028😀 and 12:things", "[2]TEST-1"))
    release(custodian, first.request_id)
    with pytest.raises(AccessRefusedError):
        release(custodian, first.request_id)
    set_second_person(owner, required=True, ticket="TEST-2")
    made = request_access(custodian, [tokens[0]], REASON)
    approve(second_custodian, made.request_id)
    release(custodian, made.request_id)
    bulk(second_custodian)
    set_second_person(owner, required=False, ticket="TEST-2")
    erased(custodian, "nobody", store.keys)
    return store, tokens


def test_what_the_database_has_hashed_is_what_we_hash(busy: tuple[Store, tuple[str, str]], auditor: Connection) -> None:
    store, _ = busy
    found = verify_log(auditor)
    assert found.problems == []
    ((count, digest),) = store.rows("SELECT count(*), (array_agg(hash ORDER BY seq DESC))[1] FROM vault.access_log")
    assert (found.head.seq, found.head.hash) == (count, bytes(digest))
    assert newest_entry(auditor) == count
    actions = {action for _, action, _ in store.log()}
    assert actions == {"request", "approval", "release", "refusal", "erasure", "policy"}


def test_an_empty_log_has_an_anchor_too(store: Store, auditor: Connection, custodian: Connection) -> None:
    assert (verify_log(auditor).head, newest_entry(auditor)) == (EMPTY, 0)
    bulk(custodian)
    assert verify_log(auditor, [EMPTY]).problems == []


@pytest.mark.parametrize(
    ("done", "said"),
    [
        ("UPDATE vault.access_log SET actor = 'nobody' WHERE seq = 3", "entry 3 was changed"),
        ("UPDATE vault.access_log SET subjects = subjects[1:1] WHERE seq = 1", "entry 1 was changed"),
        ("UPDATE vault.access_log SET at = at - interval '1 microsecond' WHERE seq = 2", "entry 2 was changed"),
        ("DELETE FROM vault.access_log WHERE seq = 4", "entry 4 is missing"),
        ("DELETE FROM vault.access_log WHERE seq < 3", "entries 1 to 2 are missing"),
        (
            """
            UPDATE vault.access_log AS entry SET ticket = 'x' WHERE seq = 4;
            UPDATE vault.access_log AS entry SET hash = vault.access_log_hash(entry) WHERE seq = 4;
            """,
            "entry 5 does not continue the chain of the entry before it",
        ),
    ],
    ids=["a changed actor", "a changed subject", "a changed time", "a removed row", "a removed head", "hashed again"],
)
def test_what_was_done_to_the_log_is_found(
    busy: tuple[Store, tuple[str, str]], auditor: Connection, done: str, said: str
) -> None:
    busy[0].execute(AS_SUPERUSER + done)
    assert verify_log(auditor).problems == [said]


def test_a_tail_that_was_cut_off_shows_against_an_anchor(
    busy: tuple[Store, tuple[str, str]], auditor: Connection, custodian: Connection
) -> None:
    head = verify_log(auditor).head
    busy[0].execute(f"{AS_SUPERUSER} DELETE FROM vault.access_log WHERE seq > {head.seq - 2}")
    assert verify_log(auditor).problems == []
    assert verify_log(auditor, [head]).problems == [
        f"entries were cut off at the end: the last entry is {head.seq - 2}, and the log had {head.seq}"
    ]
    busy[0].execute("ALTER TABLE vault.access_log ENABLE TRIGGER USER")
    for _ in range(3):
        bulk(custodian)
    assert verify_log(auditor, [head]).problems != [], "grown again it is another past"


def test_a_time_that_is_none_is_a_problem_in_one_line(busy: tuple[Store, tuple[str, str]], auditor: Connection) -> None:
    busy[0].execute(f"{AS_SUPERUSER} UPDATE vault.access_log SET at = '0044-03-15 BC' WHERE seq = 2")
    with pytest.raises(AuditError, match=r"^the access log is not intact: "):
        verify_log(auditor)


def test_entries_are_found_by_actor_token_and_time(busy: tuple[Store, tuple[str, str]], auditor: Connection) -> None:
    _, (ip, device) = busy

    def found(wanted: EntryFilter) -> list[tuple[str, str]]:
        return [(entry.actor, entry.action) for entry in find_entries(auditor, wanted)]

    everything = found(EntryFilter())
    assert len(everything) == newest_entry(auditor)
    assert found(EntryFilter(limit=2)) == everything[:2]
    assert {actor for actor, _ in found(EntryFilter(actor="second_custodian"))} == {"second_custodian"}
    first = [("custodian", "refusal"), ("custodian", "release"), ("custodian", "request")]
    second = [("custodian", "release"), ("second_custodian", "approval"), ("custodian", "request")]
    assert found(EntryFilter(token=device)) == first
    assert found(EntryFilter(token=ip)) == second + first, "with the approvals and refusals, which name no token"
    assert found(EntryFilter(since=datetime.now(UTC) + timedelta(hours=1))) == []
    assert found(EntryFilter(since=datetime.now(UTC) - timedelta(hours=1))) == everything


def test_the_log_is_for_the_auditor_and_no_one_else(store: Store, custodian: Connection, analyst_url: str) -> None:
    with store.connection() as pipeline, connected(analyst_url) as analyst:
        for connection in (custodian, pipeline, analyst):
            with pytest.raises(DatabaseError) as caught:
                verify_log(connection)
            assert caught.value.sqlstate == "42501"


def test_anchors_are_kept_one_a_line_and_all_of_them_count(tmp_path: Path) -> None:
    path = tmp_path / "anchors.txt"
    anchors = [Anchor(1, b"a" * 32), Anchor(20, b"b" * 32)]
    for anchor in anchors:
        add_anchor(path, anchor)
    assert read_anchors(path) == anchors


@pytest.mark.parametrize("content", [None, b"", b"\n", b"1:abc\n", b"\xff\xfe"])
def test_a_file_without_anchors_is_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "anchors.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AuditError) as caught:
        read_anchors(path)
    assert "\n" not in str(caught.value)


def test_an_anchor_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match=r"No such file or directory"):
        add_anchor(tmp_path / "no" / "folder", EMPTY)
