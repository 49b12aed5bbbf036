"""The session recovers: work is retried after a transient error; any other error is raised at once."""

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Barrier, BrokenBarrierError
from typing import Any
from uuid import uuid4

import psycopg2
import pytest

from loginpipe.common.errors import DatabaseError, SchemaError
from loginpipe.ingest.record import record_batch
from loginpipe.local.stack import LocalStack
from loginpipe.postgres.batches import BatchRecord
from loginpipe.postgres.connections import Connection, transaction
from loginpipe.postgres.migrate import require_migrated
from loginpipe.postgres.session import OutOfTimeError, Session, is_passing
from loginpipe_tests.batches import masking_of, processed, received
from loginpipe_tests.conftest import KeyFiles
from loginpipe_tests.wire import eventually, login


@dataclass
class Work:
    """Writes a row; during the first attempts, something happens. Counts the attempts."""

    happens: Callable[[Any], object] = lambda _: None
    times: int = 1
    attempts: int = 0

    def __call__(self, connection: Connection) -> int:
        self.attempts += 1
        with transaction(connection) as cursor:
            cursor.execute("INSERT INTO work VALUES (1)")
            if self.attempts <= self.times:
                self.happens(cursor)
            cursor.execute("INSERT INTO work VALUES (2)")
        return self.attempts


@dataclass(frozen=True)
class Database:
    """A database of a test, and the actions of an administrator on it."""

    url: str
    server_url: str
    name: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.url.partition("?")[0].rpartition("/")[2])

    def execute(self, statement: str, *, url: str = "") -> list[tuple[Any, ...]]:
        connection = psycopg2.connect(url or self.url)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def end_connections(self) -> None:
        self.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            f"WHERE datname = '{self.name}' AND backend_type = 'client backend' AND pid <> pg_backend_pid()",
            url=self.server_url,
        )

    def close(self) -> None:
        """Refuse new connections and end the existing ones. To a client, the server seems to be down."""
        self.execute(f"ALTER DATABASE {self.name} ALLOW_CONNECTIONS false", url=self.server_url)
        self.end_connections()

    def open(self) -> None:
        self.execute(f"ALTER DATABASE {self.name} ALLOW_CONNECTIONS true", url=self.server_url)

    def written(self) -> list[int]:
        return [value for (value,) in self.execute("SELECT value FROM work ORDER BY 1")]


@pytest.fixture(scope="module")
def shared_database(stack: LocalStack) -> Iterator[Database]:
    name = f"session_{uuid4().hex}"
    database = Database(stack.database_url.replace("/loginpipe?", f"/{name}?"), stack.database_url)
    database.execute(f"CREATE DATABASE {name}", url=stack.database_url)
    yield database
    database.execute(f"DROP DATABASE {name} WITH (FORCE)", url=stack.database_url)


@pytest.fixture
def database(shared_database: Database) -> Iterator[Database]:
    """Yield a database with an empty table, open and with its usual settings."""
    shared_database.execute("CREATE TABLE work (value integer)")
    yield shared_database
    shared_database.open()
    shared_database.execute(f"ALTER DATABASE {shared_database.name} RESET ALL", url=shared_database.server_url)
    shared_database.execute("DROP TABLE work CASCADE")


@pytest.fixture
def session(database: Database) -> Iterator[Session]:
    session = Session(database.url, retry_seconds=30)
    yield session
    session.close()


def backend(session: Session) -> int:
    """Return the process id of the server process behind a session."""

    def ask(connection: Connection) -> int:
        with transaction(connection) as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            return int(cursor.fetchall()[0][0])

    return session.run(ask)


def test_while_all_is_well_the_connection_stays_the_same(session: Session, database: Database) -> None:
    work = Work()
    assert len({backend(session) for _ in range(3)}) == 1
    assert session.run(work) == 1
    assert database.written() == [1, 2]


# --- connections cut --------------------------------------------------------------------------------------------------


def test_a_connection_cut_between_two_pieces_of_work_is_opened_again(session: Session, database: Database) -> None:
    before = backend(session)
    database.end_connections()
    session.run(Work())
    assert backend(session) != before
    assert database.written() == [1, 2]


def test_work_whose_connection_is_cut_half_way_is_done_again_and_once(session: Session, database: Database) -> None:
    work = Work(happens=lambda _: database.end_connections(), times=2)
    assert session.run(work) == 3
    assert database.written() == [1, 2]


def test_a_connection_closed_on_our_side_is_opened_again(session: Session, database: Database) -> None:
    session.close()
    session.run(Work())
    assert database.written() == [1, 2]


def test_a_connection_that_the_server_ended_for_idling_is_opened_again(session: Session, database: Database) -> None:
    """A run receives for some time before it writes, and administrators set such timeouts."""

    def be_impatient(connection: Connection) -> None:
        with transaction(connection) as cursor:
            cursor.execute("SET idle_session_timeout = '20ms'")

    before = backend(session)
    session.run(be_impatient)
    there = f"SELECT count(*) FROM pg_stat_activity WHERE pid = {before}"
    eventually(lambda: database.execute(there) == [(0,)], "the server ends the connection")
    session.run(Work())
    assert database.written() == [1, 2]


def test_a_primary_that_has_become_a_replica_is_left_for_a_new_connection(database: Database) -> None:
    """After a failover, a connection may be to the old primary, which no longer accepts writes."""
    database.execute(f"ALTER DATABASE {database.name} SET default_transaction_read_only = on", url=database.server_url)
    session = Session(database.url, retry_seconds=10)
    before = backend(session)
    database.execute(f"ALTER DATABASE {database.name} RESET default_transaction_read_only", url=database.server_url)
    session.run(Work())
    assert backend(session) != before
    assert database.written() == [1, 2]
    session.close()


# --- the database unreachable -----------------------------------------------------------------------------------------


class Watch(logging.Handler):
    """Acts when a session logs its nth retry."""

    def __init__(self, nth: int, does: Callable[[], object]) -> None:
        super().__init__()
        self.said: list[str] = []
        self._nth = nth
        self._does = does

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())
        if len(self.said) == self._nth:
            self._does()


@pytest.fixture
def watch() -> Iterator[Callable[[Watch], Watch]]:
    log = logging.getLogger("loginpipe.postgres.session")

    def watched(watch: Watch) -> Watch:
        log.addHandler(watch)
        return watch

    yield watched
    for handler in list(log.handlers):
        log.removeHandler(handler)


def test_a_database_that_comes_back_is_waited_for(
    session: Session, database: Database, watch: Callable[[Watch], Watch]
) -> None:
    seen = watch(Watch(3, database.open))
    work = Work(happens=lambda _: database.close())
    session.run(work)
    assert work.attempts == 2
    assert database.written() == [1, 2]
    assert len(seen.said) >= 3
    assert seen.said[0].startswith("the connection to the database broke off: ")
    assert seen.said[1].startswith(f"cannot connect to the database {database.name} at ")
    assert not [line for line in seen.said if "\n" in line]


def test_a_database_that_stays_away_is_named_when_the_patience_is_over(database: Database) -> None:
    session = Session(database.url, retry_seconds=0.5)
    database.close()
    began = time.monotonic()
    with pytest.raises(DatabaseError) as caught:
        session.run(Work())
    assert str(caught.value).startswith(f"cannot connect to the database {database.name} at ")
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 15
    database.open()
    session.run(Work())
    assert database.written() == [1, 2]
    session.close()


def test_a_database_that_is_away_at_the_start_is_said_at_once(database: Database) -> None:
    database.close()
    began = time.monotonic()
    with pytest.raises(DatabaseError, match=f"cannot connect to the database {database.name} at "):
        Session(database.url, retry_seconds=60)
    assert time.monotonic() - began < 15


# --- error codes ------------------------------------------------------------------------------------------------------


def failing(code: str) -> Callable[[Any], None]:
    """Return a function that fails a statement with this code, as a trigger or the server itself does."""
    statement = f"DO $$ BEGIN RAISE EXCEPTION 'in the way' USING ERRCODE = '{code}'; END $$"
    return lambda cursor: cursor.execute(statement)


@pytest.mark.parametrize(
    "code",
    [
        "40001",  # serialisation failure
        "40P01",  # deadlock
        "55P03",  # lock not available
        "57P01",  # shut down
        "57P02",  # crashed
        "57P03",  # starting up
        "57P05",  # connection ended because it was idle
        "25P03",  # connection ended because it was idle in a transaction
        "53300",  # too many connections
        "08000",
        "08003",
        "08006",
        "08P01",
    ],
)
def test_what_passes_is_tried_again_until_it_has_passed(session: Session, database: Database, code: str) -> None:
    work = Work(happens=failing(code))
    assert session.run(work) == 2
    assert database.written() == [1, 2]


@pytest.mark.parametrize(
    "code", ["42P01", "42501", "23505", "22P02", "22001", "23514", "57014", "53100", "P0001", "40002", "XX000"]
)
def test_what_does_not_pass_is_raised_at_once(session: Session, database: Database, code: str) -> None:
    work = Work(happens=failing(code))
    with pytest.raises(DatabaseError) as caught:
        session.run(work)
    assert work.attempts == 1
    assert caught.value.sqlstate == code
    assert "in the way" not in str(caught.value)
    assert database.written() == []


def test_what_never_passes_is_raised_with_its_code_when_the_patience_is_over(database: Database) -> None:
    session = Session(database.url, retry_seconds=2)
    work = Work(happens=failing("40001"), times=10**6)
    with pytest.raises(DatabaseError, match=r"\[40001\]") as caught:
        session.run(work)
    assert work.attempts > 1
    assert caught.value.sqlstate == "40001"
    assert database.written() == []
    session.close()


def test_a_serialisation_failure_of_a_trigger_is_tried_again(session: Session, database: Database) -> None:
    database.execute(
        """
        CREATE SEQUENCE attempts;
        CREATE FUNCTION conflict() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF nextval('attempts') <= 2 THEN
                RAISE EXCEPTION 'could not serialize access' USING ERRCODE = 'serialization_failure';
            END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER conflict BEFORE INSERT ON work FOR EACH ROW EXECUTE FUNCTION conflict();
        """
    )
    work = Work()
    assert session.run(work) == 3
    assert database.written() == [1, 2]


def test_two_serialisable_transactions_that_conflict_both_succeed(database: Database) -> None:
    together = Barrier(2, timeout=20)

    def work(connection: Connection) -> None:
        with transaction(connection) as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
            cursor.execute("SELECT count(*) FROM work")
            ((count,),) = cursor.fetchall()
            with suppress(BrokenBarrierError):
                together.wait()
            together.abort()
            cursor.execute("INSERT INTO work VALUES (%s)", (count,))

    def run(_: int) -> None:
        session = Session(database.url, retry_seconds=20)
        session.run(work)
        session.close()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, range(2)))
    assert database.written() == [0, 1], "as if one had come after the other"


def test_a_missing_table_and_a_missing_privilege_are_raised_at_once(session: Session, database: Database) -> None:
    database.execute("CREATE TABLE private (value integer)")

    def without_privileges(cursor: Any) -> None:
        cursor.execute("SET LOCAL ROLE pg_monitor")
        cursor.execute("INSERT INTO private VALUES (1)")

    for happens, said in (
        (lambda cursor: cursor.execute("SELECT * FROM missing"), r"\[42P01\]; a table is missing"),
        (without_privileges, r"\[42501\]; the role lacks a privilege"),
    ):
        work = Work(happens=happens)
        with pytest.raises(DatabaseError, match=said):
            session.run(work)
        assert work.attempts == 1
    assert database.written() == []


def test_a_database_that_is_not_migrated_is_said_at_once(session: Session) -> None:
    began = time.monotonic()
    with pytest.raises(SchemaError):
        session.run(require_migrated)
    assert time.monotonic() - began < 15


def test_a_mistake_of_ours_is_not_tried_again_and_leaves_the_connection_usable(
    session: Session, database: Database
) -> None:
    def mistake(_: object) -> None:
        raise ZeroDivisionError

    work = Work(happens=mistake)
    with pytest.raises(ZeroDivisionError):
        session.run(work)
    assert work.attempts == 1
    assert database.written() == []
    session.run(Work())
    assert database.written() == [1, 2]


def test_errors_that_are_no_database_errors_never_pass() -> None:
    assert not is_passing(ValueError("40001"))
    assert not is_passing(SchemaError("not migrated"))
    assert not is_passing(KeyboardInterrupt())
    assert is_passing(DatabaseError("the connection broke off"))


# --- two writers ------------------------------------------------------------------------------------------------------


def test_a_batch_in_a_deadlock_with_another_writer_is_recorded_once(
    database_url: str, stack: LocalStack, key_files: KeyFiles
) -> None:
    database = Database(database_url, stack.database_url)
    # Postgres searches for deadlocks after this time instead of after a second.
    database.execute(f"ALTER DATABASE {database.name} SET deadlock_timeout = '100ms'", url=database.server_url)
    attempts = {"loader": 0, "other": 0}
    first_locks = Barrier(2, timeout=20)

    def wait_for_the_other(who: str) -> None:
        attempts[who] += 1
        if attempts[who] == 1:
            first_locks.wait()

    messages = received(login(user_id=f"user-{i}", device_id=f"device-{i}") for i in range(5))
    outcome = processed(messages, masking_of(key_files))

    def load(connection: Connection) -> BatchRecord:
        # The lock is taken in the batch's own transaction, so that nothing is committed before it.
        with connection.cursor() as cursor:
            cursor.execute("LOCK TABLE loginpipe.ingested_messages IN SHARE ROW EXCLUSIVE MODE")
        wait_for_the_other("loader")
        return record_batch(connection, outcome, queue="queue")

    def other(connection: Connection) -> None:
        with transaction(connection) as cursor:
            cursor.execute("LOCK TABLE vault.sealed_values IN SHARE ROW EXCLUSIVE MODE")
            wait_for_the_other("other")
            cursor.execute("LOCK TABLE loginpipe.ingested_messages IN SHARE ROW EXCLUSIVE MODE")

    def run(work: Callable[[Connection], Any]) -> Any:
        session = Session(database.url, retry_seconds=30)
        try:
            return session.run(work)
        finally:
            session.close()

    with ThreadPoolExecutor(2) as pool:
        loaded, _ = list(pool.map(run, [load, other]))
    assert sum(attempts.values()) >= 3, "one of the two was sent away"
    assert (loaded.inserted, loaded.duplicates) == (5, 0)
    counts = "SELECT (SELECT count(*) FROM user_logins), (SELECT count(*) FROM loginpipe.ingested_messages)"
    assert database.execute(counts) == [(5, 5)]
    assert database.execute("SELECT inserted, duplicates FROM loginpipe.batches") == [(5, 0)]


def test_two_writers_that_lock_in_opposite_order_both_succeed(database: Database) -> None:
    database.execute(f"ALTER DATABASE {database.name} SET deadlock_timeout = '100ms'", url=database.server_url)
    database.execute("CREATE TABLE left_one (value integer); CREATE TABLE right_one (value integer)")
    attempts = [0, 0]
    together = Barrier(2, timeout=20)

    def run(writer: int) -> None:
        order = ["left_one", "right_one"][:: 1 if writer else -1]

        def work(connection: Connection) -> None:
            attempts[writer] += 1
            with transaction(connection) as cursor:
                cursor.execute(f"LOCK TABLE {order[0]}")
                if attempts[writer] == 1:
                    together.wait()
                cursor.execute(f"LOCK TABLE {order[1]}")
                cursor.execute("INSERT INTO work VALUES (%s)", (writer,))

        session = Session(database.url, retry_seconds=30)
        session.run(work)
        session.close()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, range(2)))
    assert database.written() == [0, 1]
    assert sum(attempts) >= 3


# --- until a deadline -------------------------------------------------------------------------------------------------


def test_work_that_lasts_beyond_its_time_is_cancelled_and_rolled_back_and_none_begins_after_it(
    database: Database, session: Session
) -> None:
    late = Work(lambda cursor: cursor.execute("SELECT pg_sleep(60)"))
    with session.until(time.monotonic() + 2):
        with pytest.raises(OutOfTimeError, match=r"^the time was up while the database worked: run again$"):
            session.run(late)
        later = Work()
        with pytest.raises(OutOfTimeError, match=r"^the time was up before the database was asked: run again$"):
            session.run(later)
    assert (late.attempts, later.attempts) == (1, 0)
    assert database.written() == []
    session.run(Work())
    assert database.written() == [1, 2]


def test_work_is_not_tried_again_beyond_its_time_and_its_error_is_that_of_the_database(
    database: Database, session: Session
) -> None:
    database.close()
    with session.until(time.monotonic() + 2), pytest.raises(DatabaseError) as caught:
        session.run(Work())
    assert not isinstance(caught.value, OutOfTimeError)
    database.open()
    session.run(Work())


def test_a_session_may_ask_for_its_url_at_each_connect(database: Database) -> None:
    asked = []
    session = Session(lambda: asked.append(1) or database.url)  # type: ignore[func-returns-value]
    session.run(Work())
    database.end_connections()
    session.run(Work())
    session.close()
    assert len(asked) == 2
