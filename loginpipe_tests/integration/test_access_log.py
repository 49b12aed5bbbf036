"""Access to sealed values as the database enforces it: recorded first, once, in time, by the requester, chained."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from hashlib import sha256
from threading import Barrier
from typing import Any
from uuid import uuid4

import psycopg2
import psycopg2.extras
import pytest

from loginpipe_tests.conftest import as_role

PURPOSE, TICKET = "a court order of May 3rd", "LEGAL-17"
TOKENS = [f"ip.v1.{letter * 43}" for letter in "ABC"]
UNKNOWN = f"dev.v1.{'Z' * 43}"
MESSAGE = "7f0c3f6e-3c1b-4a35-9d3e-5b9f2f3f9b11"
SHORT_HASH = "d41d8cd98f00b204e9800998ecf8427e"


class Person:
    """A person with a login, who commits explicitly."""

    def __init__(self, database_url: str) -> None:
        self.connection = psycopg2.connect(database_url)

    def run(self, statement: str, *values: Any) -> list[Any]:
        with self.connection.cursor(cursor_factory=psycopg2.extras.NamedTupleCursor) as cursor:
            cursor.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def commit(self) -> None:
        self.connection.commit()

    def rollback(self) -> None:
        self.connection.rollback()

    def ask(
        self, subjects: Sequence[str | None] | None, purpose: str | None = PURPOSE, ticket: str | None = TICKET,
        under: str | None = None,
    ) -> Any:  # fmt: skip
        """Request, and leave the transaction open. Without subjects, request a rotation of many values."""
        given = list(subjects) if subjects is not None else None
        kind, most = ("rotate", 1_000) if subjects is None else (None, None)
        (answer,) = self.run(
            "SELECT request_id::text, refusal, needs_approval "
            "FROM vault.request_access(%s::text[], %s, %s, %s::uuid, %s, %s)",
            given, purpose, ticket, under, kind, most,
        )  # fmt: skip
        return answer

    def request(self, subjects: Sequence[str] | None, under: str | None = None) -> str:
        answer = self.ask(subjects, under=under)
        assert answer.refusal is None
        self.commit()
        return str(answer.request_id)

    def refused_request(self, *arguments: Any, **more: Any) -> str:
        answer = self.ask(*arguments, **more)
        assert (answer.request_id, answer.needs_approval) == (None, None)
        self.commit()
        return str(answer.refusal)

    def open(self, request_id: str) -> list[Any]:
        """Release, and leave the transaction open."""
        return self.run("SELECT * FROM vault.release(%s::uuid)", request_id)

    def release(self, request_id: str) -> list[str]:
        """Release and commit; return the released subjects."""
        rows = self.open(request_id)
        self.commit()
        assert all(row.refusal is None for row in rows)
        return [row.subject for row in rows if row.ciphertext is not None]

    def refused_release(self, request_id: str) -> str:
        (row,) = self.open(request_id)
        self.commit()
        assert row[1:] == (None,) * 8
        return str(row.refusal)

    def approve(self, request_id: str) -> str | None:
        (row,) = self.run("SELECT vault.approve_access(%s::uuid) AS refusal", request_id)
        self.commit()
        return row.refusal  # type: ignore[no-any-return]


def person(database_url: str) -> Iterator[Person]:
    someone = Person(database_url)
    yield someone
    someone.connection.close()


@pytest.fixture
def owner(owner_url: str) -> Iterator[Person]:
    yield from person(owner_url)


@pytest.fixture
def custodian(custodian_url: str, sealed: None) -> Iterator[Person]:
    yield from person(custodian_url)


@pytest.fixture
def colleague(second_custodian_url: str) -> Iterator[Person]:
    yield from person(second_custodian_url)


@pytest.fixture
def auditor(auditor_url: str) -> Iterator[Person]:
    yield from person(auditor_url)


RECIPIENTS = ["0a" * 32, "ff" * 32]
KEYS = """
    INSERT INTO vault.data_keys
    SELECT {key}, recipient, convert_to(repeat('for ' || recipient, 4), 'UTF8')
    FROM unnest(ARRAY[repeat('ff', 32), repeat('0a', 32)]) AS recipient
"""


def seal(owner: Person, token: str, content: str = "x") -> None:
    """Insert a sealed value, with its own data key for two recipients."""
    key = str(uuid4())
    owner.run(KEYS.format(key="%s::uuid"), key)
    owner.run("INSERT INTO vault.sealed_values VALUES (%s, 'ip', %s, 7, %s)", token, key, content.encode() * 48)


@pytest.fixture
def sealed(owner: Person) -> None:
    """Insert a sealed value for each token, and a sealed body."""
    for token in TOKENS:
        seal(owner, token, token[-1])
    owner.run("INSERT INTO loginpipe.token_key_checks VALUES (1, 'x'), (2, 'x')")
    owner.run(
        "INSERT INTO loginpipe.rejected_messages "
        "VALUES (%s, now(), now(), gen_random_uuid(), '{missing}', '{ip}', 'body', gen_random_uuid(), 3)",
        MESSAGE,
    )
    owner.run(KEYS.format(key="(SELECT data_key_id FROM loginpipe.rejected_messages)"))
    owner.commit()


def log(auditor: Person, columns: str = "action, actor, detail") -> list[tuple[Any, ...]]:
    entries = [tuple(row) for row in auditor.run(f"SELECT {columns} FROM vault.access_log ORDER BY seq")]
    auditor.commit()
    return entries


def make_older(owner: Person, request_id: str, interval: str, action: str = "request") -> None:
    """Make an entry older. Only the owner can, and verification detects it because the hash no longer matches."""
    owner.run("ALTER TABLE vault.access_log DISABLE TRIGGER refuse_to_change_the_log")
    owner.run(
        "UPDATE vault.access_log SET at = at - %s::interval WHERE request_id = %s::uuid AND action = %s",
        interval, request_id, action,
    )  # fmt: skip
    owner.run("ALTER TABLE vault.access_log ENABLE ALWAYS TRIGGER refuse_to_change_the_log")
    owner.commit()


def set_second_person(owner: Person, required: bool) -> None:
    owner.run("SELECT vault.set_second_person(%s, 'SEC-1')", required)
    owner.commit()


# --- the intended way ---


def test_what_was_requested_is_released_with_its_keys_and_both_are_on_record(
    custodian: Person, auditor: Person
) -> None:
    request_id = custodian.request([TOKENS[1], UNKNOWN, MESSAGE, TOKENS[0]])
    opened = custodian.open(request_id)
    custodian.commit()
    assert [row.asked for row in opened] == [TOKENS[1], UNKNOWN, MESSAGE, TOKENS[0]]
    rows = {row.subject: row for row in opened if row.ciphertext is not None}
    assert set(rows) == {TOKENS[0], TOKENS[1], MESSAGE}
    assert [(row.field, row.position, bytes(row.ciphertext)) for _, row in sorted(rows.items())] == [
        ("body", 3, b"body"), ("ip", 7, b"A" * 48), ("ip", 7, b"B" * 48),
    ]  # fmt: skip
    for row in rows.values():
        assert row.recipients == RECIPIENTS
        assert [bytes(key).decode() for key in row.wrapped_keys] == [f"for {name}" * 4 for name in RECIPIENTS]
    assert log(auditor, "action, actor, request_id::text, subjects, purpose, ticket, detail") == [
        ("request", "custodian", request_id, [TOKENS[1], UNKNOWN, MESSAGE, TOKENS[0]], PURPOSE, TICKET, None),
        ("release", "custodian", request_id, [MESSAGE, TOKENS[0], TOKENS[1]], None, None, "3 of 4 found"),
    ]


def test_a_rejected_message_without_a_body_is_not_there(custodian: Person, owner: Person) -> None:
    owner.run("UPDATE loginpipe.rejected_messages SET sealed_body = NULL, data_key_id = NULL, position = NULL")
    owner.commit()
    assert custodian.release(custodian.request([MESSAGE])) == []


def test_a_request_is_for_256_subjects_at_most(custodian: Person, owner: Person) -> None:
    tokens = [f"dev.v1.{number:043}" for number in range(257)]
    for token in tokens:
        seal(owner, token)
    owner.commit()
    assert custodian.release(custodian.request(tokens[:256])) == tokens[:256]
    assert custodian.refused_request(tokens) == "too_many_subjects"


def test_white_space_around_purpose_and_ticket_is_not_kept(custodian: Person, auditor: Person) -> None:
    custodian.ask(TOKENS, f" \t\n{PURPOSE}\u00a0 ", f"\r\n{TICKET} ")
    custodian.commit()
    assert log(auditor, "purpose, ticket") == [(PURPOSE, TICKET)]


# --- ways around the record ---


def test_a_request_of_the_same_transaction_releases_nothing_so_a_rollback_leaves_nothing_read(
    custodian: Person, auditor: Person
) -> None:
    answer = custodian.ask(TOKENS)
    (row,) = custodian.open(answer.request_id)
    assert row == ("not_committed",) + (None,) * 8
    custodian.rollback()
    assert log(auditor) == []
    assert custodian.refused_release(answer.request_id) == "unknown_request"


def test_a_savepoint_makes_no_earlier_transaction(custodian: Person) -> None:
    custodian.run("SAVEPOINT one")
    request_id = custodian.ask(TOKENS).request_id
    custodian.run("RELEASE SAVEPOINT one")
    custodian.run("SAVEPOINT two")
    (row,) = custodian.open(request_id)
    assert row.refusal == "not_committed"
    custodian.run("ROLLBACK TO SAVEPOINT two")
    (row,) = custodian.open(request_id)
    assert row.refusal == "not_committed"


def test_nor_does_a_block_that_catches_its_own_error(custodian: Person) -> None:
    """Each block with EXCEPTION is a subtransaction, whose id differs from that of its transaction."""
    custodian.run(
        """
        DO $$
        DECLARE
            asked uuid;
            answer text;
        BEGIN
            BEGIN
                asked := (vault.request_access(ARRAY['ip.v1.' || repeat('A', 43)], 'a court order', 'T-1')).request_id;
            EXCEPTION WHEN others THEN
                RAISE;
            END;
            answer := (SELECT refusal FROM vault.release(asked));
            PERFORM set_config('test.answer', answer, false);
        END
        $$
        """
    )
    assert custodian.run("SELECT current_setting('test.answer')") == [("not_committed",)]


def test_a_prepared_transaction_is_no_committed_one(database_url: str, owner: Person, custodian_url: str) -> None:
    """By default, the server does not allow prepared transactions at all."""
    (setting,) = owner.run("SELECT current_setting('max_prepared_transactions')::integer")
    custodian = Person(custodian_url)
    custodian.ask(TOKENS)
    with closing(custodian.connection), pytest.raises(psycopg2.Error) as refusal:
        custodian.run("PREPARE TRANSACTION 'later'")
    assert setting[0] == 0
    assert refusal.value.pgcode == "55000"


def test_a_release_that_is_rolled_back_leaves_the_request_on_record(custodian: Person, auditor: Person) -> None:
    request_id = custodian.request(TOKENS)
    assert len(custodian.open(request_id)) == 3
    custodian.rollback()
    assert log(auditor, "action, subjects, purpose") == [("request", TOKENS, PURPOSE)]


def test_a_second_release_is_refused(custodian: Person) -> None:
    request_id = custodian.request(TOKENS)
    assert custodian.release(request_id) == TOKENS
    assert custodian.refused_release(request_id) == "released_before"


def test_of_two_releases_at_once_one_is_refused(custodian: Person, custodian_url: str) -> None:
    request_id = custodian.request(TOKENS)
    together = Barrier(2)

    def release(_: int) -> str | None:
        someone = Person(custodian_url)
        with closing(someone.connection):
            together.wait(timeout=30)
            rows = someone.open(request_id)
            someone.commit()
        return rows[0].refusal  # type: ignore[no-any-return]

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(release, range(2)), key=str) == [None, "released_before"]


def test_a_request_is_released_to_no_one_else(custodian: Person, colleague: Person) -> None:
    assert colleague.refused_release(custodian.request(TOKENS)) == "of_another_role"


def test_whoever_sets_another_role_stays_who_logged_in(custodian: Person, auditor: Person, colleague: Person) -> None:
    custodian.run("SET ROLE pii_custodian")
    request_id = custodian.request(TOKENS)
    assert log(auditor, "actor") == [("custodian",)]
    colleague.run("SET ROLE pii_custodian")
    assert colleague.refused_release(request_id) == "of_another_role"


def test_a_request_is_good_for_a_quarter_of_an_hour(custodian: Person, owner: Person) -> None:
    in_time, too_late = custodian.request(TOKENS), custodian.request(TOKENS)
    make_older(owner, in_time, "14 minutes")
    make_older(owner, too_late, "16 minutes")
    assert custodian.release(in_time) == TOKENS
    assert custodian.refused_release(too_late) == "expired"


def test_a_transaction_that_was_begun_in_time_gains_none(custodian: Person, owner: Person) -> None:
    request_id = custodian.request(TOKENS)
    custodian.run("SELECT now()")
    make_older(owner, request_id, "16 minutes")
    assert custodian.refused_release(request_id) == "expired"


def test_a_request_that_came_with_a_backup_of_another_server_is_good_for_nothing(
    custodian: Person, colleague: Person, owner: Person
) -> None:
    """Its transaction id is one that this server has not reached yet."""
    request_id, bulk = custodian.request(TOKENS), custodian.request(None)
    owner.run("ALTER TABLE vault.access_log DISABLE TRIGGER refuse_to_change_the_log")
    owner.run("UPDATE vault.access_log SET xact = '9000000000000000'")
    owner.run("ALTER TABLE vault.access_log ENABLE ALWAYS TRIGGER refuse_to_change_the_log")
    owner.commit()
    assert custodian.refused_release(request_id) == "not_committed"
    assert colleague.approve(request_id) == "not_committed"
    assert custodian.refused_request(TOKENS, under=bulk) == "unusable_parent"


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE", "READ UNCOMMITTED"])
@pytest.mark.parametrize(
    "call",
    [
        f"vault.request_access('{{{TOKENS[0]}}}', 'a court order', 'T-1')",
        "vault.approve_access(gen_random_uuid())",
        "vault.release(gen_random_uuid())",
        "vault.request_erasure('{}', 'a court order', 'T-1')",
        "vault.release_for_erasure(gen_random_uuid())",
        "vault.erase_user(gen_random_uuid(), '{}', '{}', '{}')",
        "vault.discard_values(gen_random_uuid(), '{}')",
    ],
    ids=["request", "approve", "release", "request an erasure", "release for it", "erase", "discard"],
)
def test_outside_read_committed_nothing_works(custodian: Person, level: str, call: str) -> None:
    custodian.connection.set_session(isolation_level=level)
    with pytest.raises(psycopg2.Error) as refusal:
        custodian.run(f"SELECT {call}")
    assert refusal.value.pgcode == "25001"
    assert level in str(refusal.value)


# --- refusals ---


@pytest.mark.parametrize("purpose", [None, "", "too short", " " * 20, "a  \n\t     ", "\u00a0" * 12])
def test_a_purpose_of_ten_characters_is_wanted(custodian: Person, purpose: str | None) -> None:
    assert custodian.refused_request(TOKENS, purpose) == "purpose_too_short"


@pytest.mark.parametrize("ticket", [None, "", " \n"])
def test_a_ticket_is_wanted(custodian: Person, ticket: str | None) -> None:
    assert custodian.refused_request(TOKENS, PURPOSE, ticket) == "no_ticket"


@pytest.mark.parametrize(
    "subjects",
    [[], [None], [TOKENS[0], None], [""], ["203.0.113.7"], ["593-47-5928"], [TOKENS[0], "2001:db8::1"], ["x" * 300]],
    ids=["none", "null", "a token and null", "blank", "an address", "a device id", "a token and an address", "long"],
)
def test_what_is_neither_token_nor_message_id_is_refused_and_does_not_get_into_the_log(
    custodian: Person, auditor: Person, subjects: list[str | None]
) -> None:
    assert custodian.refused_request(subjects) == "no_subjects"
    assert log(auditor, "action, subjects, purpose, ticket, detail") == [
        ("refusal", None, PURPOSE, TICKET, "request: no_subjects")
    ]


@pytest.mark.parametrize("subject", [TOKENS[0], UNKNOWN, MESSAGE, SHORT_HASH, SHORT_HASH * 2, "A" * 43 + "="])
def test_tokens_of_every_masking_are_subjects(custodian: Person, owner: Person, subject: str) -> None:
    if subject not in (*TOKENS, UNKNOWN, MESSAGE):
        assert custodian.refused_request([subject]) == "no_subjects", "it may be a device id, and nothing is under it"
        seal(owner, subject)
        owner.commit()
    assert custodian.request([subject])


def test_every_refusal_is_on_record(custodian: Person, colleague: Person, auditor: Person) -> None:
    custodian.refused_request(TOKENS, "short")
    custodian.refused_request([TOKENS[0]] * 257)
    nowhere = str(uuid4())
    assert custodian.refused_release(nowhere) == "unknown_request"
    assert colleague.approve(nowhere) == "unknown_request"
    bulk = custodian.request(None)
    assert custodian.refused_release(bulk) == "bulk_request"
    assert custodian.approve(bulk) == "own_request"
    assert colleague.refused_release(bulk) == "of_another_role"
    assert log(auditor, "action, actor, request_id::text, cardinality(subjects), detail") == [
        ("refusal", "custodian", None, 3, "request: purpose_too_short"),
        ("refusal", "custodian", None, None, "request: too_many_subjects"),
        ("refusal", "custodian", nowhere, None, "release: unknown_request"),
        ("refusal", "second_custodian", nowhere, None, "approval: unknown_request"),
        ("request", "custodian", bulk, None, "rotate 1000"),
        ("refusal", "custodian", bulk, None, "release: bulk_request"),
        ("refusal", "custodian", bulk, None, "approval: own_request"),
        ("refusal", "second_custodian", bulk, None, "release: of_another_role"),
    ]


def test_a_request_that_is_null_is_unknown(custodian: Person) -> None:
    assert [row.refusal for row in custodian.run("SELECT * FROM vault.release(NULL)")] == ["unknown_request"]
    assert custodian.run("SELECT vault.approve_access(NULL)") == [("unknown_request",)]


# --- the second person ---


def test_where_a_second_person_is_wanted_nothing_is_released_without_one(
    custodian: Person, colleague: Person, owner: Person, auditor: Person
) -> None:
    set_second_person(owner, required=True)
    answer = custodian.ask(TOKENS)
    custodian.commit()
    assert answer.needs_approval is True
    assert custodian.refused_release(answer.request_id) == "needs_approval"
    assert custodian.approve(answer.request_id) == "own_request"
    assert custodian.refused_release(answer.request_id) == "needs_approval"
    assert colleague.approve(answer.request_id) is None
    assert colleague.approve(answer.request_id) == "approved_before"
    assert colleague.refused_release(answer.request_id) == "of_another_role"
    assert custodian.release(answer.request_id) == TOKENS
    assert [action for (action,) in log(auditor, "action")] == [
        "policy", "request", "refusal", "refusal", "refusal", "approval", "refusal", "refusal", "release",
    ]  # fmt: skip


def test_the_policy_of_the_moment_of_release_is_what_counts(custodian: Person, owner: Person) -> None:
    before = custodian.request(TOKENS)
    set_second_person(owner, required=True)
    assert custodian.refused_release(before) == "needs_approval"
    set_second_person(owner, required=False)
    assert custodian.release(before) == TOKENS


def test_the_policy_is_the_owners_and_goes_on_record_with_its_ticket(
    custodian: Person, owner: Person, auditor: Person
) -> None:
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        custodian.run("SELECT vault.set_second_person(false, 'T-1')")
    with pytest.raises(psycopg2.errors.InvalidParameterValue):
        owner.run("SELECT vault.set_second_person(false, ' ')")
    owner.rollback()
    set_second_person(owner, required=True)
    set_second_person(owner, required=False)
    assert log(auditor, "action, actor, ticket, detail") == [
        ("policy", "loginpipe_owner", "SEC-1", "second_person=required"),
        ("policy", "loginpipe_owner", "SEC-1", "second_person=not_required"),
    ]


def test_an_approval_is_possible_for_a_day_and_good_for_a_quarter_of_an_hour(
    custodian: Person, colleague: Person, owner: Person
) -> None:
    set_second_person(owner, required=True)
    yesterday, today, stale = (custodian.request(TOKENS) for _ in range(3))
    make_older(owner, yesterday, "25 hours")
    make_older(owner, today, "23 hours")
    assert colleague.approve(yesterday) == "expired"
    assert colleague.approve(today) is None
    assert custodian.release(today) == TOKENS
    assert colleague.approve(stale) is None
    make_older(owner, stale, "16 minutes", "approval")
    assert custodian.refused_release(stale) == "expired"


def test_what_was_released_is_not_approved_afterwards(custodian: Person, colleague: Person) -> None:
    request_id = custodian.request(TOKENS)
    custodian.release(request_id)
    assert colleague.approve(request_id) == "released_before"


def test_an_approval_that_is_rolled_back_is_none(custodian: Person, colleague: Person, owner: Person) -> None:
    set_second_person(owner, required=True)
    request_id = custodian.request(TOKENS)
    colleague.run("SELECT vault.approve_access(%s::uuid)", request_id)
    colleague.rollback()
    assert custodian.refused_release(request_id) == "needs_approval"


# --- many values at once, for a job ---


def test_requests_under_a_bulk_request_need_no_approval_of_their_own(
    custodian: Person, colleague: Person, owner: Person, auditor: Person
) -> None:
    set_second_person(owner, required=True)
    bulk = custodian.request(None)
    assert custodian.refused_request(TOKENS, under=bulk) == "needs_approval"
    assert colleague.approve(bulk) is None
    for token in TOKENS:
        answer = custodian.ask([token], under=bulk)
        custodian.commit()
        assert answer.needs_approval is False
        assert custodian.release(answer.request_id) == [token]
    assert {under for (under,) in log(auditor, "under::text")[4:]} == {bulk}


def test_a_bulk_request_is_good_for_a_day_from_its_approval(
    custodian: Person, colleague: Person, owner: Person
) -> None:
    set_second_person(owner, required=True)
    bulk = custodian.request(None)
    make_older(owner, bulk, "23 hours")
    assert colleague.approve(bulk) is None
    make_older(owner, bulk, "23 hours", "approval")
    open_since_then = custodian.request(TOKENS, under=bulk)
    make_older(owner, bulk, "2 hours", "approval")
    assert custodian.refused_request(TOKENS, under=bulk) == "unusable_parent"
    assert custodian.refused_release(open_since_then) == "expired"


def test_without_an_approval_to_wait_for_it_is_good_for_a_day_from_itself(custodian: Person, owner: Person) -> None:
    bulk = custodian.request(None)
    make_older(owner, bulk, "23 hours")
    assert custodian.release(custodian.request(TOKENS, under=bulk)) == TOKENS
    make_older(owner, bulk, "2 hours")
    assert custodian.refused_request(TOKENS, under=bulk) == "unusable_parent"


def test_a_request_under_a_bulk_request_is_good_for_a_quarter_of_an_hour_like_any(
    custodian: Person, owner: Person
) -> None:
    request_id = custodian.request(TOKENS, under=custodian.request(None))
    make_older(owner, request_id, "16 minutes")
    assert custodian.refused_release(request_id) == "expired"


def test_only_a_committed_bulk_request_of_ones_own_has_others_under_it(custodian: Person, colleague: Person) -> None:
    assert custodian.refused_request(TOKENS, under=str(uuid4())) == "unusable_parent"
    assert custodian.refused_request(TOKENS, under=custodian.request(TOKENS)) == "unusable_parent"
    assert custodian.refused_request(TOKENS, under=colleague.request(None)) == "unusable_parent"
    assert custodian.refused_request(None, under=custodian.request(None)) == "no_subjects"
    uncommitted = custodian.ask(None).request_id
    assert custodian.ask(TOKENS, under=uncommitted).refusal == "unusable_parent"


# --- the log itself ---


@pytest.mark.parametrize("role", ["loginpipe_owner", "postgres"])
@pytest.mark.parametrize(
    "change",
    [
        "UPDATE vault.access_log SET actor = 'someone else'",
        "UPDATE vault.access_log SET at = at WHERE false",
        "DELETE FROM vault.access_log",
        "TRUNCATE vault.access_log",
        "INSERT INTO vault.access_log (seq, action) VALUES (1, 'request') ON CONFLICT (seq) DO UPDATE SET actor = 'x'",
        "MERGE INTO vault.access_log USING (SELECT 1) AS one ON true WHEN MATCHED THEN DELETE",
    ],
    ids=["update", "update of nothing", "delete", "truncate", "upsert", "merge"],
)
def test_the_log_is_changed_by_no_one_not_even_its_owner(
    custodian: Person, database_url: str, auditor: Person, role: str, change: str
) -> None:
    custodian.request(TOKENS)
    before = log(auditor, "*")
    with closing(psycopg2.connect(as_role(database_url, role))) as connection, connection.cursor() as cursor:
        if role == "postgres":
            cursor.execute("SET session_replication_role = replica")
        with pytest.raises(psycopg2.Error, match="append-only"):
            cursor.execute(change)
    assert log(auditor, "*") == before


def test_an_entry_of_the_owners_is_his_and_of_now_whatever_it_says(
    custodian: Person, owner: Person, auditor: Person
) -> None:
    custodian.request(TOKENS)
    owner.run(
        "INSERT INTO vault.access_log VALUES (999, '1999-01-01', 'custodian', 'release', NULL, NULL, NULL, NULL, NULL, "
        "'all is well', '3', 'x', 'y')"
    )
    owner.commit()
    (entry,) = log(auditor, "seq, actor, at > now() - interval '1 hour', length(hash), detail")[1:]
    assert entry == (2, "loginpipe_owner", True, 32, "all is well")
    assert_unbroken(auditor)


def part(text: object) -> str:
    return "-" if text is None else f"{len(str(text).encode())}:{text}"


def assert_unbroken(auditor: Person) -> int:
    """Recompute the chain from the columns, as vault.access_log_hash does; return the number of entries."""
    entries = log(
        auditor,
        "seq, at AT TIME ZONE 'UTC', actor, action, request_id, under, subjects, purpose, ticket, detail, "
        "previous_hash, hash",
    )
    previous = bytes(32)
    for place, (seq, at, actor, action, request_id, under, subjects, *stated, previous_hash, found) in enumerate(
        entries, 1
    ):
        listed = "-" if subjects is None else f"[{len(subjects)}]{''.join(map(part, subjects))}"
        parts = [previous.hex(), seq, at.isoformat(timespec="microseconds") + "Z", actor, action, request_id, under]
        text = "".join(map(part, parts)) + listed + "".join(map(part, stated))
        assert (seq, bytes(previous_hash)) == (place, previous)
        assert bytes(found) == sha256(text.encode()).digest()
        previous = bytes(found)
    return len(entries)


def test_each_entry_is_hashed_with_the_one_before(custodian: Person, colleague: Person, auditor: Person) -> None:
    request_id = custodian.request([TOKENS[0], UNKNOWN])
    colleague.approve(request_id)
    custodian.release(request_id)
    custodian.ask(TOKENS, "ünïcödé: 12:3-[4] 😀", "T-1\n2:x")
    custodian.commit()
    custodian.refused_request([])
    custodian.request(TOKENS, under=custodian.request(None))
    assert assert_unbroken(auditor) == 7


def test_whoever_waits_too_long_for_anothers_open_transaction_is_told_so(
    custodian: Person, colleague: Person, owner: Person
) -> None:
    owner.run("ALTER FUNCTION vault.lock_access_log() SET lock_timeout = '20ms'")
    owner.commit()
    custodian.ask(TOKENS)
    with pytest.raises(psycopg2.errors.LockNotAvailable):
        colleague.ask(TOKENS)


def test_an_entry_that_was_rolled_back_leaves_no_gap(custodian: Person, colleague: Person, auditor: Person) -> None:
    custodian.ask(TOKENS)
    custodian.rollback()
    colleague.request(TOKENS)
    custodian.request(TOKENS)
    assert log(auditor, "seq, actor") == [(1, "second_custodian"), (2, "custodian")]
    assert_unbroken(auditor)


def test_two_thousand_entries_of_eight_connections_leave_an_unbroken_chain(
    custodian: Person, custodian_url: str, second_custodian_url: str, auditor: Person
) -> None:
    connections, each = 8, 250
    together = Barrier(connections)

    def write(number: int) -> None:
        someone = Person(second_custodian_url if number % 2 else custodian_url)
        with closing(someone.connection):
            together.wait(timeout=30)
            for entry in range(each):
                if entry % 10 == 9:
                    someone.ask(TOKENS)
                    someone.rollback()
                someone.ask(TOKENS, PURPOSE if entry % 3 else "short")
                if entry % 5:  # sometimes two entries in one transaction
                    someone.commit()

    with ThreadPoolExecutor(connections) as pool:
        list(pool.map(write, range(connections)))
    assert assert_unbroken(auditor) == 2_000
