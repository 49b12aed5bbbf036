"""Postgres stopped, crashed, frozen and disconnected during a run: the run continues, or loses nothing."""

import os
import signal
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from threading import Timer

import dagster as dg
import psycopg2
import pytest

from loginpipe.common.errors import DatabaseError, LoginpipeError
from loginpipe.common.settings import load_settings
from loginpipe.monitoring import doctor
from loginpipe.postgres.connections import Connection, connect, transaction
from loginpipe.postgres.session import Session
from loginpipe_tests.conftest import KeyFiles
from loginpipe_tests.crash.logins import logins
from loginpipe_tests.crash.place import FastPlace, fast_place
from loginpipe_tests.crash.points import Point
from loginpipe_tests.crash.postgres import LossyWay, Postgres
from loginpipe_tests.crash.reconciliation import Balance, settled
from loginpipe_tests.sqs_endpoint import Endpoint
from loginpipe_tests.wire import eventually

pytestmark = pytest.mark.filterwarnings("ignore:XDG_RUNTIME_DIR")

GOOD, BAD = 60, 20
BATCH, BATCHES = 20, 4
MIDDLE = 3
"""The batch that is disturbed; others are before and after it."""
CUT = """
    SELECT pg_terminate_backend(pid, 5000)
    FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'loginpipe'
"""
WAITING = """
    SELECT pid
    FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'loginpipe' AND wait_event_type = 'Lock'
"""


@pytest.fixture
def place(endpoint: Endpoint, postgres: Postgres, key_files: KeyFiles, tmp_path: Path) -> FastPlace:
    place = fast_place(endpoint, postgres.database(), key_files, tmp_path)
    place.send(logins(GOOD, bad=BAD))
    return place


def run(
    place: FastPlace, point: Point, act: Callable[[], object], batch: int = MIDDLE, **settings: object
) -> dg.ExecuteInProcessResult:
    """Run the job in batches, and act in the middle of one. All are full, however long their receives take."""
    return place.run(point, act, batch, batch_messages=BATCH, linger_seconds=60, **settings)


def assert_all_went_well(place: FastPlace, result: dg.ExecuteInProcessResult, batches: int = BATCHES) -> None:
    """Check that one run processed all batches as if nothing had happened."""
    assert result.success
    names = ("received", "inserted", "rejected", "duplicates", "deleted", "delete_failures", "leases_lost")
    sums = ", ".join(f"sum({name})" for name in names)
    found = place.rows(f"SELECT count(*), {sums} FROM loginpipe.batches")
    assert found == [(batches, GOOD + BAD, GOOD, BAD, 0, GOOD + BAD, 0, 0)]
    assert set(place.receives()) == {1}
    assert settled(place) == Balance(GOOD, BAD, 0)


# --- stopped and started again ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", [Point.RECEIVED, Point.WRITTEN, Point.RECORDED])
def test_a_run_gets_over_a_restart_of_postgres(place: FastPlace, postgres: Postgres, point: Point) -> None:
    assert_all_went_well(place, run(place, point, postgres.restart))


def test_a_run_waits_for_a_postgres_that_is_away_and_keeps_its_leases(place: FastPlace, postgres: Postgres) -> None:
    starting = Timer(7, postgres.start)

    def stop() -> None:
        postgres.stop()
        starting.start()

    result = run(place, Point.WRITTEN, stop, visibility_seconds=6)
    starting.join()
    assert_all_went_well(place, result)


def test_a_run_gets_over_a_crash_of_postgres(place: FastPlace, postgres: Postgres) -> None:
    assert_all_went_well(place, run(place, Point.WRITTEN, postgres.crash))


def test_a_crash_of_postgres_after_the_deletes_loses_nothing_also_where_commits_are_asynchronous_by_default(
    place: FastPlace, postgres: Postgres
) -> None:
    place.rows(
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off', current_database()); END $$"
    )
    postgres.configure(wal_writer_delay="'10s'")
    try:
        run(place, Point.DELETED, postgres.crash)
    finally:
        postgres.configure(wal_writer_delay="DEFAULT")
    assert settled(place) == Balance(GOOD, BAD, 0)


# --- connections cut --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", [Point.PROCESSED, Point.COPIED, Point.WRITTEN])
def test_a_run_gets_over_the_end_of_its_connection(place: FastPlace, point: Point) -> None:
    cut: list[tuple[bool]] = []
    result = run(place, point, lambda: cut.extend(place.rows(CUT)))
    assert cut == [(True,)]
    assert_all_went_well(place, result)


def test_a_commit_whose_answer_gets_lost_is_done_once(place: FastPlace, postgres: Postgres) -> None:
    with LossyWay(postgres.socket, place.database_url) as way:
        place.environment["LOGINPIPE_DATABASE_URL"] = way.url
        result = run(place, Point.WRITTEN, way.lose_next_commit)
    assert way.lost == 1
    assert_all_went_well(place, result)


def test_a_postgres_that_hangs_in_the_commit_costs_no_lease(place: FastPlace) -> None:
    backend = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'loginpipe'"

    def freeze() -> None:
        ((pid,),) = place.rows(backend)
        os.kill(pid, signal.SIGSTOP)
        Timer(7, os.kill, (pid, signal.SIGCONT)).start()

    assert_all_went_well(place, run(place, Point.WRITTEN, freeze, visibility_seconds=6))


# --- deadlocks --------------------------------------------------------------------------------------------------------


def test_a_run_that_is_the_victim_of_a_deadlock_tries_again(place: FastPlace) -> None:
    first, *_, last = sorted(i for i, login in place.sent.items() if login.user)
    statement = "INSERT INTO loginpipe.ingested_messages SELECT %s, current_date, gen_random_uuid()"
    # A wait is searched for a deadlock once, after this time. By then the other transaction must wait too.
    place.rows(
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET deadlock_timeout = %L', current_database(), '5s'); END $$"
    )
    with closing(psycopg2.connect(place.database_url)) as other, other.cursor() as cursor:
        cursor.execute("SET deadlock_timeout = '1min'")
        cursor.execute(statement, (last,))

        def lock_what_the_run_has() -> None:
            eventually(lambda: bool(place.rows(WAITING)), "the run waits for the other transaction")
            cursor.execute(statement, (first,))
            other.rollback()

        locking = Timer(0, lock_what_the_run_has)
        result = place.run(Point.COPIED, locking.start, batch_messages=GOOD + BAD, linger_seconds=60)
        locking.join()
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    # The run's backend reports it when it ends, or after ten seconds without work.
    eventually(lambda: place.rows(deadlocks) == [(1,)], "one deadlock was counted", seconds=60)
    assert_all_went_well(place, result, batches=1)


# --- a replica --------------------------------------------------------------------------------------------------------


def test_a_reader_endpoint_is_named_by_doctor_and_by_what_it_refuses(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.database()
    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", url)
    assert doctor.database(load_settings()).startswith("migrated to ")
    postgres.become_replica()
    try:
        with pytest.raises(LoginpipeError) as found:
            doctor.database(load_settings())
        assert " is a replica, which takes no writes: name the writer's endpoint in LOGINPIPE_DATABASE_URL" in str(
            found.value
        )
        with closing(Session(url, retry_seconds=0)) as session, pytest.raises(DatabaseError) as refused:
            session.run(write)
        assert "[25006]; the database takes no writes, as a replica or made read-only" in str(refused.value)
        with pytest.raises(DatabaseError, match="none of its hosts takes writes: name the writer's endpoint"):
            connect(f"{url}&target_session_attrs=read-write")
    finally:
        postgres.execute("SELECT pg_promote()")
    assert doctor.database(load_settings()).startswith("migrated to ")


def write(connection: Connection) -> None:
    with transaction(connection) as cursor:
        cursor.execute("DELETE FROM loginpipe.batches")
