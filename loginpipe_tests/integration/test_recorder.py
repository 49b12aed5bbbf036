"""Batches processed and recorded in one session: refused rows, users erased in the meantime, clear cells."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import date
from functools import partial
from typing import Any

import psycopg2
import pytest

from loginpipe.common.errors import ClearValueError, DatabaseError
from loginpipe.ingest import process
from loginpipe.ingest.process import Masking
from loginpipe.ingest.record import Recorded, Recorder
from loginpipe.logins.messages import Message
from loginpipe.masking.mask import MaskedLogins, mask_logins
from loginpipe.postgres.batches import Finished
from loginpipe.postgres.connections import Connection
from loginpipe.postgres.migrate import migrate
from loginpipe.postgres.session import Session
from loginpipe_tests.batches import masking_of, received
from loginpipe_tests.conftest import OWNER, PIPELINE, KeyFiles, as_role, execute
from loginpipe_tests.custody import connected, erased
from loginpipe_tests.wire import Custodian, delivered, login, tables

RUN_ID = "00000000-0000-0000-0000-0000000000aa"
COLUMNS = """
    user_id varchar(128), device_type varchar(32), masked_ip varchar(256), masked_device_id varchar(256),
    locale varchar(32), app_version integer, create_date date
"""


class Database:
    """A migrated database, and a session on it as the pipeline's role."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = Session(as_role(url, PIPELINE), retry_seconds=5)

    def rows(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with closing(psycopg2.connect(self.url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(statement, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def recorder(self, masking: Masking) -> Recorder:
        return Recorder(self.session, masking, queue="queue", run_id=RUN_ID)

    def record(self, masking: Masking, messages: Sequence[Message]) -> list[Recorded]:
        return list(self.recorder(masking).record(messages))

    def users(self) -> list[str]:
        return [user for (user,) in self.rows("SELECT user_id FROM user_logins ORDER BY 1")]

    def rejects(self) -> dict[str, tuple[list[str], list[str]]]:
        """Return message id → reasons and fields."""
        found = self.rows("SELECT message_id::text, reasons, fields FROM loginpipe.rejected_messages")
        return {message_id: (reasons, fields) for message_id, reasons, fields in found}

    def state(self) -> dict[str, list[str]]:
        return tables(self)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.session.close()


@pytest.fixture
def adopted(empty_database_url: str, request: pytest.FixtureRequest) -> Iterator[Database]:
    """Yield a database whose table existed before, with a rule of its own."""
    name = empty_database_url.split("/")[3].split("?", maxsplit=1)[0]
    execute(empty_database_url, f"ALTER DATABASE {name} OWNER TO {OWNER}")
    owner_url = as_role(empty_database_url, OWNER)
    execute(owner_url, f"CREATE TABLE user_logins ({COLUMNS})")
    assert migrate(owner_url).adopted
    database = Database(empty_database_url)
    database.rows(f"ALTER TABLE user_logins {request.param}")
    yield database
    database.session.close()


@pytest.fixture(scope="module")
def masking(key_files: KeyFiles) -> Masking:
    return masking_of(key_files)


def good(number: int) -> list[Message]:
    return received(login(user_id=f"user-{i}", device_id=f"device-{i % 50}") for i in range(number))


def with_poison(number: int, places: Sequence[int], **fields: Any) -> tuple[list[Message], list[Message]]:
    """Return ``number`` good messages with bad ones inserted at some places, and the bad ones alone."""
    messages, poison = good(number), []
    for place in places:
        bad = delivered(login(device_id=f"device-poison-{place}", **({"user_id": f"poison-{place}"} | fields)))
        messages.insert(place, bad)
        poison.append(bad)
    return messages, poison


# --- rows that the database refuses -----------------------------------------------------------------------------------

PLACES = pytest.mark.parametrize(
    "places", [[0], [150], [300], [3, 4, 120, 303], [0, 1, 2, 3, 4, 5]],
    ids=["the first", "in the middle", "the last", "several", "side by side"],
)  # fmt: skip


def assert_poison_alone_is_rejected(
    database: Database, key_files: KeyFiles, found: Sequence[Recorded], *, of: Sequence[Message], named: str, rows: int
) -> None:
    assert database.rejects() == {message.message_id: (["refused_by_database"], [named]) for message in of}
    bodies = Custodian(database, key_files).bodies()  # type: ignore[arg-type]
    assert bodies == {message.message_id: message.body.encode() for message in of}
    assert len(database.users()) == rows
    # Every message is in one of the batches, and counted once.
    assert sum(recorded.record.inserted for recorded in found) == rows
    assert sum(recorded.record.rejected for recorded in found) == len(of)
    assert sum(recorded.record.duplicates for recorded in found) == 0
    assert sum(recorded.record.received for recorded in found) == rows + len(of)
    ids = [message.message_id for recorded in found for message in recorded.messages]
    assert len(set(ids)) == len(ids) == rows + len(of)
    assert database.rows("SELECT count(*) FROM loginpipe.ingested_messages") == [(rows + len(of),)]
    assert database.rows("SELECT count(*), sum(received) FROM loginpipe.batches") == [(len(found), rows + len(of))]


@PLACES
@pytest.mark.parametrize(
    ("adopted", "poison", "named"),
    [
        ("ADD CONSTRAINT no_poison CHECK (user_id NOT LIKE 'poison%')", {}, "no_poison"),
        ("ALTER COLUMN locale SET NOT NULL", {"locale": None}, "locale"),
        ("ADD CHECK (1 / length(locale) >= 0)", {"locale": ""}, "row"),
        ("ADD CHECK (convert_to(user_id, 'LATIN1') <> '')", {"user_id": "\u0431\u043e\u0431 \u20ac"}, "row"),
    ],
    ids=["CHECK", "NOT NULL", "division by zero", "encoding"],
    indirect=["adopted"],
)
def test_a_row_that_the_table_refuses_is_rejected_alone(
    adopted: Database,
    key_files: KeyFiles,
    masking: Masking,
    *,
    poison: dict[str, Any],
    named: str,
    places: list[int],
) -> None:
    messages, bad = with_poison(300, places, **poison)
    found = adopted.record(masking, messages)
    assert_poison_alone_is_rejected(adopted, key_files, found, of=bad, named=named, rows=300)


@pytest.mark.parametrize("adopted", ["ADD CONSTRAINT one_a_user UNIQUE (user_id)"], indirect=True)
def test_a_row_that_is_there_already_is_rejected_alone_and_of_two_in_a_batch_the_later_one(
    adopted: Database, key_files: KeyFiles, masking: Masking
) -> None:
    adopted.rows("INSERT INTO user_logins (user_id) VALUES ('poison-7')")
    messages, bad = with_poison(200, [7])
    twice = [delivered(login(user_id="user-100", device_id="again")) for _ in range(2)]
    messages += twice
    found = adopted.record(masking, messages)
    adopted.rows("DELETE FROM user_logins WHERE masked_ip IS NULL")
    assert_poison_alone_is_rejected(adopted, key_files, found, of=[*bad, *twice], named="one_a_user", rows=200)


@PLACES
@pytest.mark.parametrize("adopted", ["ADD CHECK (true)"], ids=["trigger"], indirect=True)
def test_a_row_that_is_too_long_for_what_the_tables_owner_does_with_it_is_rejected_alone(
    adopted: Database, key_files: KeyFiles, masking: Masking, places: list[int]
) -> None:
    adopted.rows(
        """
        CREATE FUNCTION shorten() RETURNS trigger LANGUAGE plpgsql
        AS $$ DECLARE short varchar(8); BEGIN short := NEW.user_id; RETURN NEW; END $$;
        CREATE TRIGGER shorten BEFORE INSERT ON user_logins FOR EACH ROW EXECUTE FUNCTION shorten();
        """
    )
    messages, bad = with_poison(300, places, user_id="poison, and long")
    found = adopted.record(masking, messages)
    assert_poison_alone_is_rejected(adopted, key_files, found, of=bad, named="row", rows=300)


@pytest.mark.parametrize(
    "adopted", ["ADD CONSTRAINT no_poison CHECK (user_id NOT LIKE 'poison%')"], ids=["CHECK"], indirect=True
)
def test_a_refused_row_that_is_delivered_again_is_a_duplicate_and_its_neighbours_too(
    adopted: Database, masking: Masking
) -> None:
    messages, _ = with_poison(20, [3])
    adopted.record(masking, messages)
    before = adopted.rows("SELECT * FROM loginpipe.rejected_messages"), adopted.users()
    (recorded,) = adopted.record(masking, messages)
    assert (recorded.record.received, recorded.record.duplicates) == (21, 21)
    assert (adopted.rows("SELECT * FROM loginpipe.rejected_messages"), adopted.users()) == before


@pytest.mark.parametrize(
    "adopted", ["ADD CONSTRAINT no_poison CHECK (user_id NOT LIKE 'poison%')"], ids=["CHECK"], indirect=True
)
def test_a_batch_is_given_as_soon_as_it_is_recorded_and_the_error_names_no_value(
    adopted: Database, masking: Masking
) -> None:
    messages, _ = with_poison(8, [8])
    seen = []
    for recorded in adopted.recorder(masking).record(messages):
        seen.append(recorded.record.received)
        ((stored,),) = adopted.rows("SELECT coalesce(sum(received), 0)::integer FROM loginpipe.batches")
        assert stored == sum(seen)
        assert "poison" not in repr(recorded)
    assert seen == [4, 2, 1, 1, 1]


OUR_OWN = {
    "ledger": "ALTER TABLE loginpipe.ingested_messages ADD CONSTRAINT refuses CHECK (sent_on < '1970-01-02') NOT VALID",
    "vault": "ALTER TABLE vault.sealed_values ADD CONSTRAINT refuses CHECK (field <> 'ip')",
    "batches": "ALTER TABLE loginpipe.batches ADD CONSTRAINT refuses CHECK (queue <> 'queue')",
    "batches, not null": "ALTER TABLE loginpipe.batches ALTER COLUMN finished_at SET NOT NULL",
}


@pytest.mark.parametrize("what", OUR_OWN)
def test_a_violation_in_our_own_schemas_is_raised_and_nothing_is_rejected(
    database: Database, masking: Masking, what: str
) -> None:
    database.rows(OUR_OWN[what])
    before = database.state()
    with pytest.raises(DatabaseError) as caught:
        database.record(masking, good(4))
    assert caught.value.sqlstate in {"23514", "23502"}
    assert not caught.value.is_about_a_row
    assert database.state() == before


# --- users erased in the meantime -------------------------------------------------------------------------------------


def erase(database: Database, masking: Masking, user: str) -> None:
    with connected(as_role(database.url, "custodian")) as connection:
        erased(connection, user, masking.keys)


def once_before_recording(monkeypatch: pytest.MonkeyPatch, session: Session, happens: Callable[[], None]) -> None:
    """Call ``happens`` once, after a batch was processed and before it is recorded."""
    run, left = session.run, [happens]

    def hooked(work: Callable[[Connection], Any]) -> Any:
        if isinstance(work, partial) and work.func.__name__ == "record_batch" and left:
            left.pop()()
        return run(work)

    monkeypatch.setattr(session, "run", hooked)


def test_a_user_who_is_erased_between_processing_and_recording_is_not_brought_back(
    database: Database, masking: Masking, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = good(5)
    recorder = database.recorder(masking)
    once_before_recording(monkeypatch, database.session, lambda: erase(database, masking, "user-3"))
    (recorded,) = recorder.record(messages)
    assert (recorded.record.inserted, recorded.record.rejected, recorded.record.duplicates) == (4, 1, 0)
    assert database.users() == ["user-0", "user-1", "user-2", "user-4"]
    assert database.rejects() == {messages[3].message_id: (["user_erased"], ["user_id"])}
    assert database.rows("SELECT sealed_body FROM loginpipe.rejected_messages") == [(None,)]
    tokens = {token for (token,) in database.rows("SELECT token FROM vault.sealed_values WHERE field = 'device_id'")}
    kept = [place for place in range(5) if place != 3]
    everyone = mask_logins(process.split_batch(messages).accepted, masking.keys).columns["masked_device_id"]
    assert tokens == {everyone[place] for place in kept}
    assert database.rows("SELECT count(*) FROM loginpipe.batches") == [(1,)]


def test_a_batch_after_an_erasure_is_processed_with_its_tombstone_at_once(database: Database, masking: Masking) -> None:
    recorder = database.recorder(masking)
    list(recorder.record(good(2)))
    erase(database, masking, "user-1")
    (recorded,) = recorder.record(good(2))
    assert (recorded.record.inserted, recorded.record.rejected) == (1, 1)
    assert database.users() == ["user-0", "user-0"]


# --- cells that are no tokens -----------------------------------------------------------------------------------------


def test_a_cell_that_is_no_token_raises_before_anything_is_written(
    database: Database, masking: Masking, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leaky(*given: Any) -> MaskedLogins:
        masked = mask_logins(*given)
        cells = ["199.172.111.135", *masked.columns["masked_ip"][1:]]
        return replace(masked, columns={**masked.columns, "masked_ip": cells})

    recorder = database.recorder(masking)
    before = database.state()
    asked: list[object] = []
    monkeypatch.setattr(process, "mask_logins", leaky)
    monkeypatch.setattr(database.session, "run", asked.append)
    with pytest.raises(ClearValueError) as caught:
        list(recorder.record([*good(3), delivered("{}")]))
    assert str(caught.value) == (
        "masked cells do not contain a token (1 of masked_ip): nothing was written; report this bug"
    )
    assert asked == [], "the vault is not even asked"
    assert database.state() == before


# --- deletes of earlier batches ---------------------------------------------------------------------------------------


def finished(database: Database) -> list[tuple[int, int, bool]]:
    return database.rows(  # type: ignore[return-value]
        "SELECT received, deleted, finished_at IS NOT NULL FROM loginpipe.batches ORDER BY recorded_at"
    )


def test_what_became_of_deletes_is_written_with_the_next_batch_and_the_rest_when_flushed(
    database: Database, masking: Masking
) -> None:
    recorder = database.recorder(masking)
    (first,) = recorder.record(good(3))
    recorder.finish([Finished(first.record.batch_id, 3, 0, 0)])
    assert finished(database) == [(3, 0, False)]
    (second,) = recorder.record(good(2))
    assert finished(database) == [(3, 3, True), (2, 0, False)]
    recorder.finish([Finished(second.record.batch_id, 2, 0, 0)])
    recorder.flush()
    assert finished(database) == [(3, 3, True), (2, 2, True)]
    recorder.flush()


def test_what_became_of_deletes_is_kept_for_the_next_batch_where_one_could_not_be_recorded(
    database: Database, masking: Masking
) -> None:
    recorder = database.recorder(masking)
    (first,) = recorder.record(good(3))
    recorder.finish([Finished(first.record.batch_id, 3, 0, 0)])
    database.rows("ALTER TABLE vault.sealed_values RENAME TO away")
    with pytest.raises(DatabaseError):
        list(recorder.record(good(2)))
    assert finished(database) == [(3, 0, False)]
    database.rows("ALTER TABLE vault.away RENAME TO sealed_values")
    list(recorder.record(good(2)))
    assert finished(database) == [(3, 3, True), (2, 0, False)]


def test_a_commit_whose_answer_is_lost_is_one_batch(
    database: Database, masking: Masking, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = database.recorder(masking)
    messages = [*good(3), delivered("{}")]
    run, recorded_by = database.session.run, []

    def losing(work: Callable[[Connection], Any]) -> Any:
        def once_lost(connection: Connection) -> Any:
            found = work(connection)
            if isinstance(work, partial) and work.func.__name__ == "record_batch":
                recorded_by.append(found)
                if len(recorded_by) == 1:
                    connection.close()
                    raise DatabaseError("the connection to the database broke off")
            return found

        return run(once_lost)

    monkeypatch.setattr(database.session, "run", losing)
    (recorded,) = recorder.record(messages)
    assert len(recorded_by) == 2
    assert (recorded.record.inserted, recorded.record.rejected, recorded.record.duplicates) == (3, 1, 0)
    assert recorded.record.rows_by_day == {date(2026, 11, 21): 3}
    assert database.rows("SELECT received, inserted, rejected, duplicates FROM loginpipe.batches") == [(4, 3, 1, 0)]
    assert len(database.users()) == 3
