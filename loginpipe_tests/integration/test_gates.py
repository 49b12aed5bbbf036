"""Locks that make others wait: any login may take advisory locks, so none of them protects a guarantee."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import parse_dsn

import loginpipe
from loginpipe.common.errors import DatabaseError, LoginpipeError
from loginpipe.common.settings import load_settings
from loginpipe.ingest.record import record_batch
from loginpipe.monitoring.doctor import locks
from loginpipe.postgres.archive import work_on_day
from loginpipe.postgres.connections import Connection, connect, transaction
from loginpipe.postgres.insights import refresh_daily_logins
from loginpipe.postgres.migrate import migrate
from loginpipe.postgres.partitions import maintain
from loginpipe.postgres.vault import insert_aliases
from loginpipe_tests.batches import masking_of, processed
from loginpipe_tests.conftest import OWNER, PIPELINE, STRANGER, KeyFiles, Pipeline, as_role, execute
from loginpipe_tests.wire import delivered, eventually, login

TODAY = datetime.now(UTC).date()
OLD, NEW = (f"ip.v{version}.{'A' * 43}" for version in (1, 2))


@pytest.fixture(autouse=True)
def _used_versions(database_url: str) -> None:
    """Record the version of the key that an alias leads to."""
    execute(database_url, "INSERT INTO loginpipe.token_key_checks VALUES (2, 'x')")


def archive_a_day(connection: Connection) -> None:
    with work_on_day(connection, TODAY):
        pass


def add_an_alias(connection: Connection) -> None:
    with transaction(connection) as cursor:
        insert_aliases(cursor, [(OLD, NEW)])


OF_THE_PIPELINE: dict[str, Callable[[Connection], Any]] = {
    "partitions": lambda connection: maintain(connection, TODAY),
    "insights": lambda connection: refresh_daily_logins(connection, TODAY),
    "archive": archive_a_day,
    "aliases": add_an_alias,
}


def test_no_advisory_lock_is_taken() -> None:
    package = Path(loginpipe.__file__).parent
    sources = [path for path in package.rglob("*") if path.suffix in {".py", ".sql"}]
    assert len(sources) > 100
    assert [path for path in sources if re.search("pg_(try_)?advisory", path.read_text())] == []


def test_a_role_without_grants_and_an_analyst_cannot_lock_a_gate_in_any_way(
    stranger_url: str, analyst_url: str
) -> None:
    for url in (stranger_url, analyst_url):
        for gate in ("vault.erasure_gate", "vault.access_log_gate"):
            for attempt in (
                f"LOCK TABLE {gate} IN ACCESS SHARE MODE",
                f"SELECT FROM {gate} FOR KEY SHARE",
                # Parsing the statement locks a table that may be named, even without other grants on it.
                f"PREPARE attempt AS DELETE FROM {gate}",
            ):
                with (
                    closing(psycopg2.connect(url)) as connection,
                    connection.cursor() as cursor,
                    pytest.raises(psycopg2.errors.InsufficientPrivilege),
                ):
                    cursor.execute(attempt)


@pytest.mark.parametrize("row", ["true", "false"])
def test_what_locks_the_erasure_gate_puts_no_second_row_into_it(pipeline_url: str, row: str) -> None:
    with pytest.raises(psycopg2.errors.IntegrityError):
        execute(pipeline_url, f"INSERT INTO vault.erasure_gate VALUES ({row})")


@pytest.mark.parametrize("work", OF_THE_PIPELINE)
def test_a_turn_is_waited_for_and_taken_when_the_other_transaction_has_ended(
    pipeline_url: str, database_url: str, work: str
) -> None:
    turn = {
        "partitions": "partitions", "aliases": "aliases", "insights": f"daily_logins {TODAY}",
        "archive": f"archived_days {TODAY}",
    }[work]  # fmt: skip
    do = OF_THE_PIPELINE[work]
    with (
        ThreadPoolExecutor(1) as pool,
        closing(psycopg2.connect(pipeline_url)) as other,
        closing(connect(pipeline_url)) as own,
    ):
        other.cursor().execute("SELECT loginpipe.take_turn(%s)", (turn,))
        if work == "archive":
            with pytest.raises(DatabaseError, match="is being archived or restored by another process"):
                do(own)
            other.commit()
            do(own)
            return
        doing = pool.submit(do, own)
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"
        eventually(lambda: execute(database_url, waiting) == [(1,)], "it waits for its turn")
        other.commit()
        doing.result(timeout=30)
    assert execute(database_url, "SELECT count(*) FROM loginpipe.turns") == [(0,)]


def test_a_database_of_ours_is_closed_to_those_who_have_no_role_and_one_that_others_use_is_not(
    empty_database_url: str,
) -> None:
    name = parse_dsn(empty_database_url)["dbname"]
    execute(empty_database_url, f"ALTER DATABASE {name} OWNER TO {OWNER}", "CREATE TABLE of_another ()")
    open_to_all = "SELECT has_database_privilege('public', current_database(), 'CONNECT')"
    migrate(as_role(empty_database_url, OWNER), today=TODAY)
    assert execute(empty_database_url, open_to_all) == [(True,)]

    execute(empty_database_url, "DROP TABLE of_another", "DROP SCHEMA vault, loginpipe CASCADE")
    execute(empty_database_url, "DROP TABLE user_logins")
    migrate(as_role(empty_database_url, OWNER), today=TODAY)
    assert execute(empty_database_url, open_to_all) == [(False,)]
    with pytest.raises(DatabaseError, match="the role may not connect to it: grant it CONNECT"):
        connect(as_role(empty_database_url, STRANGER))
    for login_of_ours in (OWNER, PIPELINE, "analyst", "custodian", "auditor"):
        connect(as_role(empty_database_url, login_of_ours)).close()


def found() -> str:
    with pytest.raises(LoginpipeError) as problem:
        locks(load_settings())
    return str(problem.value)


def test_doctor_names_who_holds_a_lock_that_a_load_waits_for(
    pipeline: Pipeline, pipeline_url: str, owner_url: str, key_files: KeyFiles
) -> None:
    assert locks(load_settings()) == "no load is blocked"
    with closing(psycopg2.connect(owner_url, application_name="psql")) as other, other.cursor() as cursor:
        cursor.execute("LOCK TABLE user_logins IN SHARE MODE")
        process = other.info.backend_pid
        assert found() == (
            f"loads are blocked: public.user_logins is locked by {OWNER} (psql, process {process}): end that "
            "transaction, or "
            f"ask an administrator to run `SELECT pg_terminate_backend({process})`"
        )
        other.rollback()

        batch = processed([delivered(login())], masking_of(key_files))
        (message_id,) = [batch.logins.columns["message_id"][0]]
        cursor.execute(
            "INSERT INTO loginpipe.ingested_messages VALUES (%s, %s, gen_random_uuid())",
            (message_id, batch.logins.columns["create_date"][0]),
        )
        with ThreadPoolExecutor(1) as pool, closing(connect(pipeline_url)) as own:
            recording = pool.submit(record_batch, own, batch, queue="q")
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            eventually(lambda: pipeline.rows(waiting) == [(1,)], "the load waits")
            assert f"a load waits for {OWNER} (psql, process {process})" in found()
            other.rollback()
            assert recording.result(timeout=30).inserted == 1


def test_doctor_names_whom_all_wait_for_and_no_one_who_waits(
    pipeline: Pipeline, pipeline_url: str, owner_url: str, analyst_url: str, key_files: KeyFiles
) -> None:
    waiting = "SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted"
    with (
        closing(psycopg2.connect(analyst_url, application_name="report")) as reader,
        closing(psycopg2.connect(owner_url)) as owner,
        closing(connect(pipeline_url)) as own,
        ThreadPoolExecutor(2) as pool,
    ):
        reader.cursor().execute("SELECT count(*) FROM user_logins")
        changing = pool.submit(owner.cursor().execute, "LOCK TABLE user_logins IN ACCESS EXCLUSIVE MODE")
        try:
            eventually(lambda: pipeline.rows(waiting) == [(1,)], "the owner waits for the reader")
            recording = pool.submit(
                record_batch, own, processed([delivered(login())], masking_of(key_files)), queue="q"
            )
            eventually(lambda: pipeline.rows(waiting) == [(2,)], "the load waits behind the owner")
            said = found()
        finally:
            reader.rollback()
            changing.result(timeout=30)
            owner.rollback()
        assert recording.result(timeout=30).inserted == 1
    assert said.startswith("loads are blocked: a load waits for analyst (report, process ")
    assert said.count("process ") == 1
