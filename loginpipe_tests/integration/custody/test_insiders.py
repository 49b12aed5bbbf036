"""Attacks by a custodian, or by anyone with the pipeline's login. Each of them was once possible.

`docs/security.md` names the test of each attacker and asset.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from io import StringIO
from typing import Any
from uuid import uuid4

import psycopg2
import pytest

from loginpipe.common.errors import AccessRefusedError, DatabaseError, LoginpipeError
from loginpipe.common.settings import load_settings
from loginpipe.custody import erasure
from loginpipe.custody.access import (
    approve,
    discard,
    release,
    release_under,
    request_access,
    request_bulk,
    set_second_person,
)
from loginpipe.custody.audit import EntryFilter, find_entries, verify_log
from loginpipe.custody.drill import open_sample, random_tokens
from loginpipe.custody.erasure import Erasure, erase, request_erasure
from loginpipe.custody.extras import backfill
from loginpipe.custody.opening import Opener, Problem
from loginpipe.custody.recovery import recover
from loginpipe.custody.rotation import count_to_rotate, rotate
from loginpipe.custody.token_checks import TokenChecks
from loginpipe.local.stack import LocalStack
from loginpipe.monitoring import doctor
from loginpipe.postgres.connections import Connection, transaction
from loginpipe.postgres.token_keys import check_token_keys
from loginpipe_tests.canary import forms, found
from loginpipe_tests.custody import (
    REASON,
    Store,
    bulk,
    closing_psycopg2,
    erased,
    made_up_token,
    no_opener,
    plant_sealed,
    token_keys,
)
from loginpipe_tests.wire import login


def as_writer(store: Store, statement: str, *parameters: Any) -> None:
    """Execute a statement as an attacker who has the pipeline's login, but no key."""
    with store.connection() as connection, transaction(connection) as cursor:
        cursor.execute(statement, parameters or None)


def plant(store: Store, *aliases: tuple[str, str]) -> None:
    for alias in aliases:
        as_writer(store, "INSERT INTO loginpipe.token_aliases (old_token, new_token) VALUES (%s, %s)", *alias)


def make_up_version(store: Store, version: int) -> None:
    """Try each way to record a version of the token key without having that key."""
    for attempt in (
        "INSERT INTO loginpipe.token_key_checks (key_version, check_value) VALUES (%s, 'x')",
        "SELECT loginpipe.record_token_key(%s::smallint, 'x', sha256('x'), NULL)",
        "SELECT loginpipe.record_token_key(%s::smallint, 'x', 'x', successor_hash) FROM loginpipe.token_key_checks",
    ):
        with suppress(DatabaseError):
            as_writer(store, attempt, version)


def recorded(store: Store, *versions: int) -> None:
    """Record versions of the token key as used, without storing anything."""
    with store.connection() as connection:
        check_token_keys(connection, token_keys(*versions))


def tokens_there(store: Store) -> set[str]:
    return {token for (token,) in store.rows("SELECT token FROM vault.sealed_values")}


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(AccessRefusedError) as caught:
        call()
    return caught.value.code


# --- the access log ---


def test_a_custodian_cannot_blind_the_audit(
    store: Store, custodian: Connection, auditor: Connection, custodian_url: str
) -> None:
    ((ip, device),) = store.load(login())
    for subjects in ([[ip], [device]], [[ip, device]]):
        with closing_psycopg2(custodian_url) as cursor:
            cursor.execute("SELECT refusal FROM vault.request_access(%s::text[], 'a court order', 'T-1')", (subjects,))
            assert cursor.fetchall() == [("no_subjects",)]
    with closing_psycopg2(custodian_url) as cursor:
        for literal, purpose in ((f"[5:5]={{{ip}}}", "a court order"), (f"{{{ip}}}", "x" * 1_001)):
            cursor.execute("SELECT refusal FROM vault.request_access(%s::text[], %s, 'T-1')", (literal, purpose))
        assert cursor.fetchall() == [("reason_too_long",)]
    assert verify_log(auditor).problems == []
    assert store.rows("SELECT subjects, length(purpose) FROM vault.access_log ORDER BY seq DESC LIMIT 1") == [
        ([ip], 1_000)
    ]

    # Entries that an earlier version let into the log are hashed and shown as they are.
    store.execute(
        "ALTER TABLE vault.access_log DROP CONSTRAINT access_log_subjects_are_a_list; "
        f"INSERT INTO vault.access_log (action, subjects) VALUES ('request', '{{{{{ip}}},{{{device}}}}}'), "
        f"('request', '[0:1][3:3]={{{{{ip}}},{{{device}}}}}')"
    )
    assert verify_log(auditor).problems == []
    for entry in find_entries(auditor, EntryFilter(limit=2)):
        assert entry.subjects == [ip, device]
    assert len(find_entries(auditor, EntryFilter(token=device))) == 2


def test_a_clear_value_that_is_typed_as_a_subject_is_not_kept(store: Store, custodian: Connection) -> None:
    clear = str(uuid4())
    assert refusal(lambda: request_access(custodian, [clear], REASON)) == "no_subjects"
    assert refusal(lambda: request_access(custodian, [clear.replace("-", "")], REASON)) == "no_subjects"
    assert clear[-12:] not in repr(store.rows("SELECT access_log::text FROM vault.access_log"))
    (message_id,) = store.reject("no JSON")
    assert request_access(custodian, [message_id], REASON).request_id


# --- erasure ---


def test_a_planted_alias_neither_keeps_a_victims_value_nor_deletes_anothers(
    store: Store, custodian: Connection, opener: Opener
) -> None:
    later = store.with_keys(1, 2)
    ((victim_ip, victim), (_, other), (_, gone)) = store.load(
        login(user_id="victim", device_id="v"),
        login(user_id="other", device_id="o", ip="198.51.100.1"),
        login(user_id="dropped", device_id="d", ip="198.51.100.2"),
    )
    ((_, newer), (_, newest)) = later.load(
        login(user_id="other", device_id="o2", ip="198.51.100.1"), login(user_id="victim", device_id="v2")
    )
    # As if the month of its logins had been dropped.
    store.execute("DELETE FROM user_logins WHERE user_id = 'dropped'")
    plant(store, (victim, newer), (gone, newest))
    done = erased(custodian, "victim", later.keys, lambda: opener)
    planted = {gone, newer, *later.keys.tokens("device_id", [b"o2"], 1)}
    assert done == Erasure(logins=2, sealed_values=4, planted=tuple(sorted(planted)))
    assert {other, gone, newer} <= tokens_there(store)
    assert not {victim_ip, victim, newest} & tokens_there(store)
    # The planted alias prevented the true one, but the value is erased too.
    assert not set(later.keys.tokens("device_id", [b"v", b"v2"])) & tokens_there(store)
    assert store.rows("SELECT count(*) FROM loginpipe.token_aliases WHERE %s IN (old_token, new_token)", victim) == [
        (0,)
    ]


def test_true_aliases_lead_an_erasure_to_every_token_of_a_value(
    store: Store, custodian: Connection, opener: Opener
) -> None:
    later = store.with_keys(1, 2)
    ((ip, device),) = store.load(login(user_id="victim"))
    later.load(login(user_id="victim"))
    ((shared, _),) = later.load(login(user_id="other", device_id="another"))
    done = erased(custodian, "victim", later.keys, lambda: opener)
    assert (done.logins, done.sealed_values) == (2, 2)
    assert done.kept == tuple(sorted([ip, shared])), "the other one has the newer token of the same address"
    assert not {device, *later.keys.tokens("device_id", [b"593-47-5928"])} & tokens_there(store)


def test_an_alias_that_nothing_at_hand_proves_is_named_and_its_value_stays(
    store: Store, custodian: Connection, opener: Opener
) -> None:
    ((_, victim),) = store.load(login(user_id="victim"))
    store.lose_token_key()
    ((_, unknown),) = store.with_keys(3).load(login(user_id="other", device_id="o", ip="198.51.100.1"))
    store.execute("DELETE FROM user_logins WHERE user_id = 'other'")
    plant(store, (victim, unknown))
    done = erased(custodian, "victim", token_keys(1, 2), lambda: opener)
    assert done == Erasure(logins=1, sealed_values=2, unverified=(unknown,))
    assert unknown in tokens_there(store)


@pytest.mark.parametrize(
    ("old", "new", "refused"),
    [
        (made_up_token("ip.v2", "a"), made_up_token("ip.v2", "b"), "23514"),
        (made_up_token("ip.v2", "a"), made_up_token("ip.v1", "b"), "23514"),
        (made_up_token("ip.v1", "a"), made_up_token("dev.v2", "b"), "23514"),
        (made_up_token("ip.v1", "a"), "ip.v2.short", "23514"),
        ("f" * 64, made_up_token("ip.v2", "b"), "23514"),
        (made_up_token("ip.v1", "a"), made_up_token("ip.v9", "b"), "23503"),
    ],
    ids=["same version", "to an older one", "another field", "no token", "another scheme", "a version to come"],
)
def test_an_alias_of_a_form_that_none_has_is_impossible(store: Store, old: str, new: str, refused: str) -> None:
    recorded(store, 1, 2)
    with pytest.raises(DatabaseError) as caught:
        plant(store, (old, new))
    assert caught.value.sqlstate == refused
    plant(store, (made_up_token("ip.v1", "a"), made_up_token("ip.v2", "b")))


def test_whether_someone_exists_cannot_be_asked_off_the_record(
    store: Store, custodian: Connection, second_custodian: Connection, custodian_url: str
) -> None:
    store.load(login(user_id="there"))
    asked = request_erasure(custodian, "there", store.keys.tombstones("there"), REASON).request_id
    with psycopg2.connect(custodian_url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM vault.release_for_erasure(%s::uuid)", (str(asked),))
        assert cursor.fetchall() == [(2,)]
        connection.rollback()
        assert store.log() == [("custodian", "request", "erasure")], "that stays, whatever is rolled back"
        # Inside one transaction, nothing is disclosed.
        cursor.copy_expert("COPY vault.erasure_requests (user_id) FROM STDIN", StringIO("there\n"))
        cursor.execute("SELECT request_id FROM vault.request_erasure('{}', 'because I wonder', 'T-1')")
        cursor.execute("SELECT refusal, asked FROM vault.release_for_erasure(%s)", cursor.fetchone())
        assert cursor.fetchall() == [("not_committed", None)]
        connection.rollback()
    assert refusal(lambda: erase(second_custodian, asked, store.keys, no_opener)) == "of_another_role"
    assert refusal(lambda: release(custodian, asked)) == "of_an_erasure"
    assert erase(custodian, asked, store.keys, no_opener).logins == 1
    assert refusal(lambda: erase(custodian, asked, store.keys, no_opener)) == "erased_before"


def test_an_erasure_that_missed_a_login_or_an_alias_deletes_nothing(
    store: Store, custodian: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.load(login(user_id="victim"))
    asked = request_erasure(custodian, "victim", store.keys.tombstones("victim"), REASON).request_id
    verify = erasure.verify_aliases

    def while_it_verifies(*arguments: Any) -> Any:
        store.load(login(user_id="victim", device_id="another"))
        return verify(*arguments)

    monkeypatch.setattr(erasure, "verify_aliases", while_it_verifies)
    with pytest.raises(DatabaseError) as caught:
        erase(custodian, asked, store.keys, no_opener)
    assert caught.value.sqlstate == "40001"
    assert store.rows("SELECT count(*) FROM user_logins") == [(2,)]


def test_where_a_second_person_is_demanded_an_erasure_is_no_way_around_one(
    store: Store, owner: Connection, custodian: Connection, second_custodian: Connection
) -> None:
    store.load(login(user_id="there"))
    set_second_person(owner, required=True, ticket="TEST-2")
    made = request_erasure(custodian, "there", {}, REASON)
    assert made.needs_approval
    assert refusal(lambda: erase(custodian, made.request_id, store.keys, no_opener)) == "needs_approval"
    approve(second_custodian, made.request_id)
    assert erase(custodian, made.request_id, store.keys, no_opener).logins == 1


# --- the versions of the token key ---


def test_a_version_of_the_token_key_that_is_made_up_stops_no_run(store: Store) -> None:
    store.load(login())
    make_up_version(store, 2)
    store.load(login(device_id="another"))
    later = store.with_keys(1, 2)
    later.load(login())
    make_up_version(store, 3)
    later.load(login())
    assert store.rows("SELECT key_version FROM loginpipe.token_key_checks ORDER BY 1") == [(1,), (2,)]


# --- the server's log ---


CANARY_USER, CANARY_UUID = "canary-user-7f0c3f6e", "7f0c3f6e-3c1b-4a35-9d3e-5b9f2f3f9b11"
# A device id of this form could be a token of an older masking.
CANARY_HEX = "5d41402abc4b2a76b9719d911017c592"


def test_what_a_custodian_types_is_not_in_the_log_of_the_server_when_a_statement_fails(
    store: Store, custodian: Connection, auditor: Connection, opener: Opener, stack: LocalStack
) -> None:
    """By default, Postgres logs a failing statement with its parameters."""
    log = stack.folder / "postgres.log"
    before = log.stat().st_size
    store.with_keys(1).load(login(user_id=CANARY_USER))
    for function in ("lock_loads_out", "lock_access_log"):
        store.execute(f"ALTER FUNCTION vault.{function}() SET lock_timeout = '20ms'")
    asked = request_erasure(custodian, CANARY_USER, {}, REASON).request_id
    typed = ("198.51.100.77", "593-47-5928", CANARY_UUID, CANARY_USER, CANARY_HEX)
    with psycopg2.connect(store.database_url) as locking, locking.cursor() as cursor:
        cursor.execute(
            "LOCK TABLE vault.erasure_gate, vault.access_log_gate, vault.access_log, loginpipe.rejected_messages "
            "IN ACCESS EXCLUSIVE MODE"
        )
        for connection in (custodian, auditor):
            connection.settings += "; SET LOCAL statement_timeout = '50ms'"
        calls: list[Callable[[], object]] = [
            lambda: erase(custodian, asked, store.keys, no_opener),
            lambda: request_erasure(custodian, CANARY_USER, {}, REASON),
            *(partial(request_access, custodian, [value], REASON) for value in typed),
            *(partial(find_entries, auditor, EntryFilter(token=value)) for value in typed),
        ]
        for call in calls:
            with pytest.raises(LoginpipeError):
                call()
    said = log.read_bytes()[before:].decode(errors="replace")
    assert said.count("ERROR: ") >= 4, "statements did fail"
    assert found({"the server's log": said}, {value: [*forms(value)] for value in typed}) == []


def test_what_a_backfill_opens_is_not_in_the_log_of_the_server_either(
    store: Store, custodian: Connection, opener: Opener, stack: LocalStack
) -> None:
    log = stack.folder / "postgres.log"
    before = log.stat().st_size
    store.load(login(country="canary-country-77"))
    store.execute("ALTER TABLE loginpipe.login_extras ADD CONSTRAINT refuses CHECK (extras IS NULL) NOT VALID")
    with pytest.raises(DatabaseError):
        backfill(custodian, opener, "country", bulk(custodian, "backfill"))
    said = log.read_bytes()[before:].decode(errors="replace")
    assert "refuses" in said
    statements = [line for line in said.splitlines() if "STATEMENT" in line]
    assert not [line for line in statements if "canary-country-77" in line]


# --- planted values ---


def planted_value(store: Store, value: bytes, *, key: str | None = None) -> str:
    """Insert a row with the pipeline's login under the token of a value that is not stored yet; return the token."""
    (coming,) = store.keys.tokens("device_id", [value])
    key = key or str(uuid4())
    as_writer(
        store,
        "INSERT INTO vault.data_keys (data_key_id, recipient, wrapped_key) VALUES (%s, %s, %s)",
        key, store.recipients[0].fingerprint, bytes(384),
    )  # fmt: skip
    as_writer(
        store,
        "INSERT INTO vault.sealed_values (token, field, data_key_id, position, ciphertext) "
        "VALUES (%s, 'device_id', %s, 0, %s)",
        coming, key, bytes(48),
    )  # fmt: skip
    return coming


def test_a_value_without_a_key_or_too_short_to_be_one_cannot_be_planted(store: Store) -> None:
    plant_value = (
        "INSERT INTO vault.sealed_values (token, field, data_key_id, position, ciphertext) VALUES (%s, %s, %s, %s, %s)"
    )
    good = str(uuid4())
    as_writer(
        store, "INSERT INTO vault.data_keys (data_key_id, recipient, wrapped_key) VALUES (%s, %s, %s)",
        good, "0" * 64, bytes(256),
    )  # fmt: skip
    token = made_up_token("dev.v1", "to come")
    for values, sqlstate in (
        ((token, "device_id", good, 0, b"x"), "23514"),
        ((token, "device_id", good, 0, bytes(49)), "23514"),
        ((token, "device_id", good, 256, bytes(48)), "23514"),
        ((token, "body", good, 0, bytes(48)), "23514"),
        ((token, "device_id", str(uuid4()), 0, bytes(48)), "23503"),
    ):
        with pytest.raises(DatabaseError) as caught:
            as_writer(store, plant_value, *values)
        assert (caught.value.sqlstate, caught.value.is_about_a_row) == (sqlstate, False)
    for recipient, wrapped in (("0" * 64, b"x"), ("nobody", bytes(256))):
        with pytest.raises(DatabaseError) as caught:
            as_writer(
                store, "INSERT INTO vault.data_keys (data_key_id, recipient, wrapped_key) VALUES (%s, %s, %s)",
                str(uuid4()), recipient, wrapped,
            )  # fmt: skip
        assert caught.value.sqlstate == "23514"
    as_writer(store, plant_value, token, "device_id", good, 0, bytes(48))


def test_a_second_recipient_of_a_data_key_cannot_be_added(store: Store, custodian: Connection, opener: Opener) -> None:
    """It would prevent every value under that key from being opened."""
    ((ip, _),) = store.load(login())
    ((key,),) = store.rows("SELECT data_key_id::text FROM vault.sealed_values WHERE token = %s", ip)
    with pytest.raises(DatabaseError) as caught:
        as_writer(
            store, "INSERT INTO vault.data_keys (data_key_id, recipient, wrapped_key) VALUES (%s, %s, %s)",
            key, "f" * 64, bytes(384),
        )  # fmt: skip
    assert (caught.value.sqlstate, caught.value.is_about_a_row) == ("23505", False)
    asked = request_access(custodian, [ip], REASON).request_id
    assert [v.text for v in recover(custodian, asked, opener, TokenChecks(store.keys), limit=1).recovered]


def test_a_planted_value_is_found_by_a_sample_named_discarded_and_sealed_again(
    store: Store, custodian: Connection, rotating: Connection, opener: Opener
) -> None:
    coming, checks = planted_value(store, b"yet to come"), TokenChecks(store.keys)
    ((good_ip, device),) = store.load(login(device_id="yet to come"))
    assert device == coming, "the pipeline takes it for sealed"

    sealed_for_another = plant_sealed(store, b"of another", b"made up")

    drawn = random_tokens(rotating, 50)
    assert set(drawn) == {good_ip, coming, sealed_for_another}
    sample = open_sample(rotating, request_access(rotating, drawn, REASON).request_id, opener, checks)
    assert (sample.values, {(error.subject, error.problem) for error in sample.refused}) == (
        1,
        {(coming, Problem.CHANGED), (sealed_for_another, Problem.PLANTED)},
    )

    asked = request_access(custodian, [coming, good_ip], REASON).request_id
    recovery = recover(custodian, asked, opener, checks, limit=2)
    assert [error.problem for error in recovery.refused] == [Problem.CHANGED]
    assert refusal(lambda: discard(rotating, asked, [coming])) == "of_another_role"
    assert refusal(lambda: discard(custodian, asked, [made_up_token("dev.v1", "not asked for")])) == "no_subjects"
    assert discard(custodian, asked, [coming]) == 1
    assert store.rows("SELECT action, subjects FROM vault.access_log ORDER BY seq DESC LIMIT 1") == [
        ("discard", [coming])
    ]

    store.load(login(device_id="yet to come"))
    asked = request_access(custodian, [coming], REASON).request_id
    assert [v.text for v in recover(custodian, asked, opener, checks, limit=1).recovered] == ["yet to come"]


def test_nothing_is_discarded_before_the_release_is_on_the_record(
    store: Store, custodian: Connection, custodian_url: str
) -> None:
    coming = planted_value(store, b"yet to come")
    asked = str(request_access(custodian, [coming], REASON).request_id)
    with closing_psycopg2(custodian_url) as cursor:
        cursor.execute("SELECT count(*) FROM vault.release(%s::uuid)", (asked,))
        cursor.execute("SELECT refusal, discarded FROM vault.discard_values(%s::uuid, %s)", (asked, [coming]))
        assert cursor.fetchall() == [("not_committed", None)]
    assert coming in tokens_there(store)


def test_a_value_whose_key_is_gone_is_an_answer_of_its_own_and_counted(
    store: Store, custodian: Connection, opener: Opener, pipeline_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((ip, device),) = store.load(login())
    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", pipeline_url)
    assert doctor.vault(load_settings()).startswith("every sealed value has its data key; ")
    store.execute(
        "DELETE FROM vault.data_keys "
        "WHERE data_key_id = (SELECT data_key_id FROM vault.sealed_values WHERE token = %s)",
        ip,
    )
    asked = request_access(custodian, [ip, device], REASON).request_id
    recovery = recover(custodian, asked, opener, TokenChecks(store.keys), limit=2)
    assert [value.subject for value in recovery.recovered] == [device]
    assert (recovery.missing, [error.problem for error in recovery.refused]) == ([], [Problem.NO_DATA_KEY])
    with pytest.raises(LoginpipeError, match=r"^1 sealed values have no data key, or are too short to be real"):
        doctor.vault(load_settings())


# --- what a release gives out ---


def test_planted_aliases_widen_no_release(store: Store, custodian: Connection, opener: Opener) -> None:
    later = store.with_keys(1, 2)
    pairs = store.load(*(login(ip=f"198.51.100.{n}", device_id=str(n)) for n in range(16)))
    recorded(store, 1, 2)
    (new,) = later.keys.tokens("ip", [b"\x09\x09\x09\x09"])
    plant(store, *((ip, new) for ip, _ in pairs))
    make_up_version(store, 2**15 - 1)
    asked = request_access(custodian, [pairs[0][0]], REASON).request_id
    recovery = recover(custodian, asked, opener, TokenChecks(later.keys), limit=1)
    assert [value.text for value in recovery.recovered] == ["198.51.100.0"]
    ((released,),) = store.rows("SELECT subjects FROM vault.access_log WHERE action = 'release'")
    assert len(released) <= 2, "no more than there are versions"


def test_no_number_of_planted_aliases_makes_a_value_unrecoverable(
    store: Store, custodian: Connection, opener: Opener
) -> None:
    later = store.with_keys(1, 2)
    ((old, _),) = store.load(login())
    ((new, _),) = later.load(login())
    as_writer(
        store,
        "INSERT INTO loginpipe.token_aliases (old_token, new_token) "
        "SELECT 'ip.v1.' || lpad(n::text, 43, '0'), %s FROM generate_series(1, 300) AS n",
        new,
    )
    for token in (old, new):
        asked = request_access(custodian, [token], REASON).request_id
        recovery = recover(custodian, asked, opener, TokenChecks(later.keys), limit=1)
        assert [value.text for value in recovery.recovered] == ["199.172.111.135"]


def test_a_rotation_corrects_what_was_planted_and_splits_no_duplicate(
    store: Store, rotating: Connection, opener: Opener
) -> None:
    (_, (_, old)) = store.load(login(user_id="a", device_id="x"), login(user_id="b"))
    later = store.with_keys(1, 2)
    recorded(store, 1, 2)
    plant(store, (old, made_up_token("dev.v2", "of nothing")))
    later.load(login(user_id="c"))
    assert store.rows(DEVICES) == [(3,)], "the attack"
    pending = count_to_rotate(rotating, 2)
    assert pending == 3, "also what an alias leads on is opened once"
    done = rotate(rotating, bulk(rotating, "rotate"), opener, later.keys, later.recipients)
    assert (done.rotated, done.corrected, done.refused) == (3, 1, [])
    assert store.rows(DEVICES) == [(2,)]
    assert count_to_rotate(rotating, 2) == 0
    plant_again = "UPDATE loginpipe.token_aliases SET new_token = %s WHERE old_token = %s"
    as_writer(store, plant_again, made_up_token("dev.v2", "of nothing"), old)
    assert count_to_rotate(rotating, 2) == 1, "what was verified was another alias"


DEVICES = "SELECT count(DISTINCT masked_device_id) FROM loginpipe.user_logins_canonical"


def test_a_bulk_request_opens_what_it_is_for_and_no_more(store: Store, custodian: Connection) -> None:
    ((ip, device),) = store.load(login(country="DE"))
    ((newer, _),) = store.with_keys(1, 2).load(login())
    (message_id,) = store.with_keys(1, 2).reject("no JSON")
    ((login_id,),) = store.rows("SELECT message_id::text FROM loginpipe.login_extras")
    replay = bulk(custodian, "replay")
    for subjects in ([ip], [newer], [message_id, ip]):
        assert refusal(lambda s=subjects: release_under(custodian, replay, s)) == "out_of_scope"
    assert [each.value.field_name for each in release_under(custodian, replay, [message_id, login_id])] == ["body"]
    fill = bulk(custodian, "backfill")
    assert [each.value.field_name for each in release_under(custodian, fill, [message_id, login_id])] == ["extras"]
    rotation = bulk(custodian, "rotate", 2)
    make_up_version(store, 3)
    for subjects in ([newer], [message_id]):
        assert refusal(lambda s=subjects: release_under(custodian, rotation, s)) == "out_of_scope"
    assert len(release_under(custodian, rotation, [ip, device])) == 2
    assert refusal(lambda: release_under(custodian, rotation, [ip])) == "out_of_scope", "for two values, and no more"
    assert refusal(lambda: request_bulk(custodian, "anything", 1, REASON)) == "no_kind"  # type: ignore[arg-type]
