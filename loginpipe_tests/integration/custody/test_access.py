"""Request, approval and release: each refusal is recorded, and its message is one line that says what to do."""

import re
from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from loginpipe.common.errors import AccessRefusedError, DatabaseError, LoginpipeError
from loginpipe.custody.access import (
    REFUSALS,
    Reason,
    approve,
    release,
    release_under,
    request_access,
    set_second_person,
)
from loginpipe.postgres.connections import Connection
from loginpipe_tests.custody import REASON, Store, bulk, made_up_token
from loginpipe_tests.wire import login

MIGRATIONS = Path(request_access.__code__.co_filename).parents[1] / "postgres" / "migrations" / "versions"


def refused(call: Callable[[], object]) -> str:
    """Return the code of a refusal, and check its message."""
    with pytest.raises(AccessRefusedError) as caught:
        call()
    code = caught.value.code
    assert str(caught.value) == f"refused, and recorded as {code}: {REFUSALS[code]}"
    assert caught.value.__cause__ is None
    return code


@pytest.fixture
def token(store: Store) -> str:
    ((ip, _),) = store.load(login())
    return ip


def requested(connection: Connection, *subjects: str) -> UUID:
    return request_access(connection, subjects, REASON).request_id


def test_every_code_of_the_database_is_put_into_words() -> None:
    functions = "".join((MIGRATIONS / name).read_text() for name in ("0001_access.sql", "0001_erasure.sql"))
    codes = set(re.findall(r"THEN '([a-z_]+)'", functions))
    assert {"purpose_too_short", "own_request", "expired"} <= codes
    assert codes == set(REFUSALS)
    for words in REFUSALS.values():
        assert "\n" not in words
        assert ": " in words or "; " in words, "what to do comes after what happened"


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (Reason("too short", "TEST-1"), "purpose_too_short"),
        (Reason(" " * 20, "TEST-1"), "purpose_too_short"),
        (Reason("long enough for the record", "  "), "no_ticket"),
    ],
)
def test_without_a_purpose_and_a_ticket_nothing_is_requested(
    custodian: Connection, store: Store, token: str, reason: Reason, code: str
) -> None:
    assert refused(lambda: request_access(custodian, [token], reason)) == code
    assert store.log() == [("custodian", "refusal", f"request: {code}")]


def test_what_is_no_subject_is_refused_and_does_not_get_into_the_log(custodian: Connection, store: Store) -> None:
    for typed in ("199.172.111.135", "593-47-5928", "ip.v1.short", str(uuid4()).upper(), ""):
        with pytest.raises(LoginpipeError, match=r"^one of the values is neither a token nor a message id"):
            request_access(custodian, [typed], REASON)
    assert store.log() == []
    assert refused(lambda: request_access(custodian, [], REASON)) == "no_subjects"
    assert "199.172" not in repr(store.rows("SELECT access_log::text FROM vault.access_log"))


@pytest.mark.parametrize(
    "value",
    [
        "199.172.111.135", "(199.172.111.135),", "199.172.111.135:443", "2001:db8::7", "[2001:DB8::7]", "fe80::1%eth0",
        "424cdd21-063a-43a7-b91b-7ca1a833afae", "424CDD21063A43A7B91B7CA1A833AFAE", "ab" * 32,
    ],
)  # fmt: skip
def test_an_address_or_an_id_is_neither_a_purpose_nor_a_ticket(value: str) -> None:
    for name, purpose, ticket in (("purpose", f"who logged in from {value}?", "T-1"), ("ticket", "for support", value)):
        with pytest.raises(LoginpipeError, match=f"^the {name} contains an address or an id") as error:
            Reason(purpose, ticket)
        assert value not in str(error.value)
    Reason("a release of 1.2.3 :: at 12:30, see https://tickets.example/4711", "SEC-20261129")


def test_too_many_subjects_are_refused(custodian: Connection) -> None:
    tokens = [made_up_token("ip.v1", str(number)) for number in range(257)]
    assert refused(lambda: requested(custodian, *tokens)) == "too_many_subjects"
    requested(custodian, *tokens[1:])


def test_a_request_is_released_once_to_the_role_that_made_it(
    custodian: Connection, second_custodian: Connection, store: Store, token: str
) -> None:
    request_id = requested(custodian, token)
    assert refused(lambda: release(second_custodian, request_id)) == "of_another_role"
    (released,) = release(custodian, request_id).found
    assert (released.value.subject, released.value.field_name) == (token, "ip")
    assert released.recipients == [key.fingerprint for key in store.recipients]
    assert refused(lambda: release(custodian, request_id)) == "released_before"
    assert refused(lambda: release(custodian, uuid4())) == "unknown_request"
    assert store.log() == [
        ("custodian", "request", None),
        ("second_custodian", "refusal", "release: of_another_role"),
        ("custodian", "release", "1 of 1 found"),
        ("custodian", "refusal", "release: released_before"),
        ("custodian", "refusal", "release: unknown_request"),
    ]


def test_where_the_policy_asks_for_a_second_person_nothing_is_released_without_one(
    owner: Connection, custodian: Connection, second_custodian: Connection, store: Store, token: str
) -> None:
    set_second_person(owner, required=True, ticket="TEST-2")
    made = request_access(custodian, [token], REASON)
    assert made.needs_approval
    assert refused(lambda: release(custodian, made.request_id)) == "needs_approval"
    assert refused(lambda: approve(custodian, made.request_id)) == "own_request"
    approve(second_custodian, made.request_id)
    assert refused(lambda: approve(second_custodian, made.request_id)) == "approved_before"
    assert refused(lambda: approve(second_custodian, uuid4())) == "unknown_request"
    assert len(release(custodian, made.request_id).found) == 1
    assert ("second_custodian", "approval", None) in store.log()

    set_second_person(owner, required=False, ticket="TEST-3")
    assert not request_access(custodian, [token], REASON).needs_approval


def test_under_an_approved_bulk_request_batches_are_released(
    owner: Connection, custodian: Connection, second_custodian: Connection, store: Store, token: str
) -> None:
    set_second_person(owner, required=True, ticket="TEST-2")
    store.with_keys(1, 2).load(login(device_id="another"))
    under = bulk(custodian, "rotate")
    assert refused(lambda: release_under(custodian, under, [token])) == "needs_approval"
    approve(second_custodian, under.request_id)
    assert refused(lambda: release(custodian, under.request_id)) == "bulk_request"
    for _ in range(2):
        assert len(release_under(custodian, under, [token])) == 1
    assert refused(lambda: release_under(second_custodian, under, [token])) == "unusable_parent"


@pytest.mark.parametrize("text", ["a purpose\x00 with a NUL", "a purpose \udcff with half a character"])
def test_what_no_database_can_hold_is_one_line(custodian: Connection, token: str, text: str) -> None:
    with pytest.raises(
        LoginpipeError, match=r"^one of the values is not valid Unicode text, or contains a NUL: type it again$"
    ):
        request_access(custodian, [token], Reason(text, "TEST-1"))
    requested(custodian, token)


def test_another_isolation_level_by_default_is_no_hindrance(custodian: Connection, token: str) -> None:
    custodian.set_session(isolation_level="SERIALIZABLE")
    assert len(release(custodian, requested(custodian, token)).found) == 1


def test_the_pipeline_may_call_none_of_it(store: Store, token: str) -> None:
    with store.connection() as pipeline:
        for call in (
            lambda: requested(pipeline, token),
            lambda: release(pipeline, uuid4()),
            lambda: approve(pipeline, uuid4()),
            lambda: set_second_person(pipeline, required=False, ticket="TEST-1"),
        ):
            with pytest.raises(DatabaseError) as caught:
                call()
            assert caught.value.sqlstate == "42501"


def test_the_policy_is_the_owners_alone_and_wants_a_ticket(custodian: Connection, owner: Connection) -> None:
    with pytest.raises(DatabaseError, match="42501"):
        set_second_person(custodian, required=False, ticket="TEST-1")
    with pytest.raises(AccessRefusedError):
        set_second_person(owner, required=True, ticket=" ")


@pytest.mark.parametrize("value", ["198.51.100.77", "2001:db8::7", "7f0c3f6e-3c1b-4a35-9d3e-5b9f2f3f9b11"])
def test_a_value_in_the_ticket_of_the_policy_is_refused_before_it_is_sent(
    store: Store, owner: Connection, value: str
) -> None:
    with pytest.raises(
        LoginpipeError, match=r"^the ticket contains an address or an id, .*; nothing was recorded"
    ) as e:
        set_second_person(owner, required=True, ticket=f"about {value}")
    assert value not in str(e.value)
    assert store.log() == []
