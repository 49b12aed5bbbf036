"""Erasing a user in the database: what is deleted and kept, the tombstones, and concurrent batches."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, date, datetime
from typing import Any

import psycopg2
import pytest

from loginpipe.ingest.process import Outcome
from loginpipe.ingest.record import UserErasedError, record_batch
from loginpipe.postgres.connections import Connection, connect
from loginpipe.postgres.copy import copy_rows
from loginpipe.postgres.erasures import Erased, read_erased
from loginpipe.postgres.session import is_passing
from loginpipe_tests.batches import masking_of, processed
from loginpipe_tests.conftest import KeyFiles, as_role
from loginpipe_tests.custody import made_up_token as token
from loginpipe_tests.wire import delivered, login

USER, OTHER = "424cdd21-063a-43a7-b91b-7ca1a833afae", "5c1f9f0e-7a45-4d4b-8a0c-1f6f6f0f9a11"
TOMBSTONE = "ab" * 32
TODAY = date(2026, 11, 21)


def query(database_url: str, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(database_url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement, values or None)
        return cursor.fetchall() if cursor.description else []


def add_login(owner_url: str, user: str, ip: str, device: str) -> None:
    """Insert a login and the sealed values of its tokens."""
    query(
        owner_url,
        "INSERT INTO user_logins (user_id, masked_ip, masked_device_id) VALUES (%s, %s, %s)",
        user,
        ip,
        device,
    )
    seal(owner_url, ip, device)


def seal(owner_url: str, *tokens: str) -> None:
    for sealed in tokens:
        query(
            owner_url,
            """
            WITH key AS (
                INSERT INTO vault.data_keys
                VALUES (gen_random_uuid(), repeat('0', 64), convert_to(repeat('x', 256), 'UTF8'))
                RETURNING data_key_id
            )
            INSERT INTO vault.sealed_values
            SELECT %s, 'ip', data_key_id, 0, convert_to(repeat('x', 48), 'UTF8')
            FROM key
            ON CONFLICT DO NOTHING
            """,
            sealed,
        )


def add_alias(owner_url: str, old: str, new: str) -> None:
    versions = "INSERT INTO loginpipe.token_key_checks VALUES (1, 'x'), (2, 'x'), (3, 'x') ON CONFLICT DO NOTHING"
    query(owner_url, versions)
    query(owner_url, "INSERT INTO loginpipe.token_aliases VALUES (%s, %s)", old, new)


def request(
    cursor: Any, user: str | None = USER, tombstones: Any = None, purpose: str = "asked for it themselves"
) -> tuple[Any, ...]:
    """Make the request, the first step; return its id and refusal."""
    given = {"1": TOMBSTONE} if tombstones is None else tombstones
    if user is not None:
        copy_rows(cursor, "vault.erasure_requests", ("user_id",), [[user]])
    cursor.execute(
        "SELECT request_id, refusal FROM vault.request_erasure(%s::jsonb, %s, 'DPO-77')", (json.dumps(given), purpose)
    )
    (row,) = cursor.fetchall()
    return row  # type: ignore[no-any-return]


def carry_out(cursor: Any, request_id: str) -> tuple[Any, ...]:
    """Do the later steps as a custodian who trusts every alias."""
    cursor.execute("SELECT asked, subject, refusal FROM vault.release_for_erasure(%s)", (request_id,))
    rows = cursor.fetchall()
    assert [refusal for *_, refusal in rows if refusal] == []
    newest = {subject: asked for asked, subject, _ in rows}
    cursor.execute(
        "SELECT refusal, logins, sealed_values FROM vault.erase_user(%s, %s::text[], %s::text[], %s::text[])",
        (request_id, list(newest), list(newest.values()), list(newest)),
    )
    (row,) = cursor.fetchall()
    return row  # type: ignore[no-any-return]


def erase(database_url: str, user: str | None = USER, tombstones: Any = None) -> tuple[Any, ...]:
    with closing(psycopg2.connect(as_role(database_url, "custodian"))) as connection, connection.cursor() as cursor:
        request_id, refusal = request(cursor, user, tombstones)
        assert refusal is None
        connection.commit()
        row = carry_out(cursor, request_id)
        connection.commit()
    return row


def sealed_tokens(database_url: str) -> set[str]:
    return {token for (token,) in query(database_url, "SELECT token FROM vault.sealed_values")}


def users(database_url: str) -> list[str]:
    return [user for (user,) in query(database_url, "SELECT user_id FROM user_logins ORDER BY 1")]


# --- what goes and what stays ---


def test_logins_go_and_of_the_sealed_values_those_that_no_one_shares(database_url: str, owner_url: str) -> None:
    add_login(owner_url, USER, "ip.sole", "dev.shared")
    add_login(owner_url, USER, "ip.shared", "dev.sole")
    add_login(owner_url, OTHER, "ip.shared", "dev.shared")
    seal(owner_url, "ip.of nobody")
    assert erase(database_url) == (None, 2, 2)
    assert users(database_url) == [OTHER]
    assert sealed_tokens(database_url) == {"ip.shared", "dev.shared", "ip.of nobody"}


def test_a_user_who_is_not_there_is_remembered_all_the_same(database_url: str) -> None:
    assert erase(database_url) == (None, 0, 0)
    assert query(database_url, "SELECT encode(tombstone, 'hex'), key_version FROM loginpipe.erased_users") == [
        (TOMBSTONE, 1)
    ]


def test_logins_without_tokens_can_be_erased_too(database_url: str, owner_url: str) -> None:
    query(owner_url, "INSERT INTO user_logins (user_id) VALUES (%s), (NULL)", USER)
    assert erase(database_url) == (None, 1, 0)
    assert query(database_url, "SELECT user_id FROM user_logins") == [(None,)]


def test_a_value_goes_under_every_version_of_the_key_unless_someone_holds_one_of_its_tokens(
    database_url: str, owner_url: str
) -> None:
    add_login(owner_url, USER, token("ip.v1", "sole"), token("dev.v2", "shared"))
    add_login(owner_url, OTHER, token("ip.v2", "other"), token("dev.v1", "shared"))
    for old, new in (
        (token("ip.v1", "sole"), token("ip.v3", "sole")),
        (token("ip.v2", "sole"), token("ip.v3", "sole")),
        (token("ip.v1", "other"), token("ip.v2", "other")),
    ):
        add_alias(owner_url, old, new)
        seal(owner_url, old, new)
    for old in (token("dev.v1", "shared"), token("dev.v2", "shared")):
        add_alias(owner_url, old, token("dev.v3", "shared"))
        seal(owner_url, old, token("dev.v3", "shared"))
    assert erase(database_url) == (None, 1, 3)
    assert sealed_tokens(database_url) == {
        token("ip.v1", "other"), token("ip.v2", "other"),
        token("dev.v1", "shared"), token("dev.v2", "shared"), token("dev.v3", "shared"),
    }  # fmt: skip
    assert {old for (old,) in query(database_url, "SELECT old_token FROM loginpipe.token_aliases")} == {
        token("dev.v1", "shared"), token("dev.v2", "shared"), token("ip.v1", "other"),
    }  # fmt: skip


@pytest.mark.parametrize("stored", [f" {USER}", f"{USER}\u2003\u00a0", f"\t{USER}\x1f\n"])
def test_every_spelling_that_has_the_same_tombstone_is_the_same_user(
    database_url: str, owner_url: str, stored: str
) -> None:
    add_login(owner_url, stored, "ip", "dev")
    add_login(owner_url, f"{USER}x", "ip", "dev")
    assert erase(database_url, f"{USER} ") == (None, 1, 0)
    assert users(database_url) == [f"{USER}x"]


@pytest.mark.parametrize(("stored", "given"), [("Zoe\u0308", "Zo\u00eb"), ("Zo\u00eb", "Zoe\u0308")])
def test_composed_and_decomposed_letters_are_the_same(
    database_url: str, owner_url: str, stored: str, given: str
) -> None:
    add_login(owner_url, stored, "ip", "dev")
    assert erase(database_url, given) == (None, 1, 2)


def test_an_id_is_text_and_no_pattern(database_url: str, owner_url: str) -> None:
    for user in ("%", "_", ".*", "'; DROP TABLE user_logins; --", "100%"):
        add_login(owner_url, user, "ip", "dev")
    assert erase(database_url, "%") == (None, 1, 0)
    assert erase(database_url, "'; DROP TABLE user_logins; --") == (None, 1, 0)
    assert sorted(users(database_url)) == [".*", "100%", "_"]


def test_logins_go_from_every_partition(database_url: str, owner_url: str) -> None:
    query(
        owner_url,
        "INSERT INTO user_logins (user_id, create_date) "
        "SELECT %s, day::date FROM unnest(ARRAY['2026-11-20', '1999-01-01', NULL]) AS day",
        USER,
    )  # fmt: skip
    assert erase(database_url) == (None, 3, 0)


# --- what is remembered ---


def test_the_log_names_tombstones_and_counts_and_never_the_user(database_url: str, owner_url: str) -> None:
    add_login(owner_url, USER, "ip", "dev")
    erase(database_url, USER, {"2": "cd" * 32, "1": TOMBSTONE})
    tombstones = [TOMBSTONE, "cd" * 32]
    assert query(
        database_url, "SELECT actor, action, subjects, purpose, ticket, detail FROM vault.access_log ORDER BY seq"
    ) == [
        ("custodian", "request", tombstones, "asked for it themselves", "DPO-77", "erasure"),
        ("custodian", "release", [], None, None, "erasure: 0 aliases to verify"),
        ("custodian", "erasure", tombstones, None, None, "logins=1 sealed_values=2 aliases=0 extras=0 kept=0"),
    ]  # fmt: skip
    assert query(database_url, "SELECT * FROM vault.erasure_requests") == []


def test_a_refusal_deletes_nothing_and_is_on_record_without_the_user(database_url: str, owner_url: str) -> None:
    add_login(owner_url, USER, "ip", "dev")
    with closing(psycopg2.connect(as_role(database_url, "custodian"))) as connection, connection.cursor() as cursor:
        assert request(cursor, purpose="short") == (None, "purpose_too_short")
        connection.commit()
    assert users(database_url) == [USER]
    assert query(database_url, "SELECT action, subjects, detail FROM vault.access_log") == [
        ("refusal", None, "erasure: purpose_too_short")
    ]


def test_an_erasure_that_is_rolled_back_has_not_been(database_url: str, owner_url: str, custodian_url: str) -> None:
    add_login(owner_url, USER, "ip", "dev")
    with closing(psycopg2.connect(custodian_url)) as connection, connection.cursor() as cursor:
        request_id, _ = request(cursor)
        connection.commit()
        assert carry_out(cursor, request_id) == (None, 1, 2)
        connection.rollback()
    assert users(database_url) == [USER]
    assert query(database_url, "SELECT action, detail FROM vault.access_log") == [("request", "erasure")]
    assert query(database_url, "SELECT count(*) FROM loginpipe.erased_users") == [(0,)]


def test_each_erasure_counts_and_the_last_one_dates_the_tombstone(database_url: str, pipeline_url: str) -> None:
    with closing(connect(pipeline_url)) as connection:
        assert read_erased(connection).count == 0
        erase(database_url)
        first = read_erased(connection)
        erase(database_url)
        second = read_erased(connection)
        erase(database_url, OTHER, {"1": "cd" * 32, "2": "ef" * 32})
        third = read_erased(connection)
    assert first.tombstones == second.tombstones == {bytes.fromhex(TOMBSTONE)}
    assert third.tombstones == {bytes.fromhex(tombstone * 32) for tombstone in ("ab", "cd", "ef")}
    assert (first.count, second.count, third.count) == (1, 2, 4)
    tombstone = bytes.fromhex(TOMBSTONE)
    assert datetime.now(UTC) >= second.erased_at[tombstone] > first.erased_at[tombstone]


def test_without_a_tombstone_the_erasure_is_counted_by_one_that_is_nobodys(
    database_url: str, pipeline_url: str
) -> None:
    for _ in range(2):
        erase(database_url, USER, {})
    assert (
        query(database_url, "SELECT key_version, octet_length(tombstone) FROM loginpipe.erased_users") == [(0, 32)] * 2
    )
    with closing(connect(pipeline_url)) as connection:
        assert read_erased(connection).count == 2


@pytest.mark.parametrize(
    "tombstones",
    [
        [], "x", 7, {"0": TOMBSTONE}, {"-1": TOMBSTONE}, {"01": TOMBSTONE}, {"32768": TOMBSTONE}, {"": TOMBSTONE},
        {"one": TOMBSTONE}, {"1": TOMBSTONE[1:]}, {"1": TOMBSTONE.upper()}, {"1": None}, {"1": 7}, {"1": [TOMBSTONE]},
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_tombstone_is_an_error_and_nothing_is_deleted(
    database_url: str, owner_url: str, tombstones: Any
) -> None:
    add_login(owner_url, USER, "ip", "dev")
    with pytest.raises(psycopg2.Error) as refusal:
        erase(database_url, USER, tombstones)
    assert refusal.value.pgcode in {"22023", "22P02"}
    assert USER not in str(refusal.value)
    assert query(database_url, "SELECT count(*) FROM vault.access_log") == [(0,)]
    assert users(database_url) == [USER]


@pytest.mark.parametrize("user", [None, "", " \u2003\n"])
def test_a_blank_user_id_is_an_error(database_url: str, owner_url: str, user: str | None) -> None:
    query(owner_url, "INSERT INTO user_logins (user_id) VALUES (''), (NULL)")
    with pytest.raises(psycopg2.errors.InvalidParameterValue):
        erase(database_url, user)
    assert query(database_url, "SELECT count(*) FROM user_logins") == [(2,)]


# --- beside batches ---


@pytest.fixture
def pipeline(pipeline_url: str) -> Iterator[Connection]:
    with closing(connect(pipeline_url)) as connection:
        yield connection


def batch(pipeline: Connection, key_files: KeyFiles) -> Outcome:
    """Return a batch with a login of the user, processed with the current list of erasures, which lacks this user."""
    erased = Erased({}, read_erased(pipeline).count)
    return processed([delivered(login(user_id=USER))], masking_of(key_files), erased=erased)


LOADING = "LOCK TABLE vault.erasure_gate IN ROW EXCLUSIVE MODE"
"""The first statement of `record_batch`."""


def waits_at_the_gate(database_url: str) -> Callable[[], bool]:
    waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'vault.erasure_gate'::regclass"
    return lambda: bool(query(database_url, waiting))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "not in time"


def test_a_batch_that_knows_of_every_erasure_is_recorded(
    database_url: str, pipeline: Connection, key_files: KeyFiles
) -> None:
    erase(database_url, OTHER)
    assert record_batch(pipeline, batch(pipeline, key_files), queue="q").inserted == 1


def test_a_batch_that_missed_one_writes_nothing_and_is_not_recorded_again_as_it_is(
    database_url: str, pipeline: Connection, key_files: KeyFiles
) -> None:
    outcome = batch(pipeline, key_files)
    erase(database_url)
    with pytest.raises(UserErasedError) as refusal:
        record_batch(pipeline, outcome, queue="q")
    assert str(refusal.value) == "a user was erased while a batch was processed: process it again"
    assert not is_passing(refusal.value)
    assert not refusal.value.is_about_a_row
    assert users(database_url) == []
    for table in ("loginpipe.ingested_messages", "loginpipe.batches", "vault.sealed_values", "vault.data_keys"):
        assert query(database_url, f"SELECT count(*) FROM {table}") == [(0,)]


def test_a_second_erasure_of_a_user_is_noticed_as_well(
    database_url: str, pipeline: Connection, key_files: KeyFiles
) -> None:
    erase(database_url)
    outcome = batch(pipeline, key_files)
    erase(database_url)
    with pytest.raises(UserErasedError):
        record_batch(pipeline, outcome, queue="q")


def test_a_batch_that_was_recorded_before_an_erasure_is_not_refused_when_its_answer_was_lost(
    database_url: str, pipeline: Connection, key_files: KeyFiles
) -> None:
    outcome = batch(pipeline, key_files)
    first = record_batch(pipeline, outcome, queue="q")
    erase(database_url)
    again = record_batch(pipeline, outcome, queue="q")
    assert (again.inserted, again.duplicates) == (first.inserted, first.duplicates) == (1, 0)
    assert users(database_url) == []


def test_an_erasure_waits_for_the_batches_in_progress_and_deletes_what_they_wrote(
    database_url: str, pipeline_url: str
) -> None:
    with ThreadPoolExecutor(1) as pool, closing(psycopg2.connect(pipeline_url)) as loading:
        with loading.cursor() as cursor:
            cursor.execute(LOADING)
            cursor.execute("INSERT INTO user_logins (user_id) VALUES (%s)", (USER,))
        erasing = pool.submit(erase, database_url)
        until(waits_at_the_gate(database_url))
        loading.commit()
        assert erasing.result(timeout=30) == (None, 1, 0)
    assert users(database_url) == []


def test_an_erasure_gives_up_behind_a_batch_that_hangs_and_nothing_is_deleted(
    database_url: str, owner_url: str, pipeline_url: str
) -> None:
    add_login(owner_url, USER, "ip", "dev")
    query(owner_url, "ALTER FUNCTION vault.lock_loads_out() SET lock_timeout = '20ms'")
    with closing(psycopg2.connect(pipeline_url)) as hanging, hanging.cursor() as cursor:
        cursor.execute(LOADING)
        with pytest.raises(psycopg2.errors.LockNotAvailable):
            erase(database_url)
    assert users(database_url) == [USER]


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ"])
def test_a_batch_that_waited_for_an_erasure_knows_of_it_whatever_the_databases_default(
    database_url: str, pipeline_url: str, custodian_url: str, key_files: KeyFiles, level: str
) -> None:
    query(database_url, f"ALTER DATABASE {psycopg2.extensions.parse_dsn(database_url)['dbname']} "
                        f"SET default_transaction_isolation = '{level.lower()}'")  # fmt: skip
    with (
        ThreadPoolExecutor(1) as pool,
        closing(psycopg2.connect(custodian_url)) as erasing,
        closing(connect(pipeline_url)) as pipeline,
    ):
        erasing.set_session(isolation_level="READ COMMITTED")
        outcome = batch(pipeline, key_files)
        with erasing.cursor() as cursor:
            request_id, _ = request(cursor)
            erasing.commit()
            carry_out(cursor, request_id)
        recording = pool.submit(record_batch, pipeline, outcome, queue="q")
        until(waits_at_the_gate(database_url))
        erasing.commit()
        with pytest.raises(UserErasedError):
            recording.result(timeout=30)
    assert users(database_url) == []


def test_batches_do_not_wait_for_one_another(pipeline_url: str, pipeline: Connection, key_files: KeyFiles) -> None:
    with closing(psycopg2.connect(pipeline_url)) as other, other.cursor() as cursor:
        cursor.execute(LOADING)
        assert record_batch(pipeline, batch(pipeline, key_files), queue="q").inserted == 1
