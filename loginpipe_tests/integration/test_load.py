"""The load transaction on a real database: all of it or nothing, each message once, whoever else is at it."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Barrier
from typing import Any
from uuid import uuid4

import pandas as pd
import psycopg2
import pytest

from loginpipe.common.errors import DatabaseError
from loginpipe.logins.delays import delay_labels
from loginpipe.logins.messages import messages_frame
from loginpipe.logins.splitting import split_batch
from loginpipe.masking.key_files import read_seal_key, read_token_keys
from loginpipe.masking.mask import MaskedBatch, mask_logins, seal_originals
from loginpipe.masking.sealing import Sealed, seal
from loginpipe.postgres.batches import Arrival, RunCounts, run_counts
from loginpipe.postgres.connections import Connection, connect
from loginpipe.postgres.load import LoadCounts, load_logins
from loginpipe.postgres.rejects import record_rejects
from loginpipe_tests.conftest import KeyFiles
from loginpipe_tests.wire import delivered, login

TABLES = ("user_logins", "loginpipe.ingested_messages", "vault.sealed_values", "vault.data_keys")


@pytest.fixture
def connection(pipeline_url: str) -> Iterator[Connection]:
    connection = connect(pipeline_url)
    yield connection
    connection.close()


def messages(*bodies: str) -> pd.DataFrame:
    return messages_frame([delivered(body) for body in bodies])


def masked(key_files: KeyFiles, *bodies: str) -> MaskedBatch:
    """Good logins as ``masked_logins`` hands them on."""
    return masked_of(key_files, messages(*bodies))


def masked_of(key_files: KeyFiles, frame: pd.DataFrame) -> MaskedBatch:
    """The same of messages received; sealed with data keys of its own each time."""
    result = mask_logins(split_batch(frame).accepted, read_token_keys(key_files.token_keys))
    return MaskedBatch(
        result.logins, seal_originals(result.originals, frozenset(), (read_seal_key(key_files.seal_public),))
    )


def logins(number: int) -> list[str]:
    return [login(user_id=f"user-{i}", device_id=f"device-{i}") for i in range(number)]


def open_books(connection: Connection, received: int) -> str:
    """Open the books of a run without rejects, and return its id."""
    run_id = str(uuid4())
    arrival = Arrival(run_id, "queue", datetime.now(UTC), received, received, None, None)
    record_rejects(connection, split_batch(messages()).rejected, Sealed(), arrival)
    return run_id


def counts(connection: Connection, run_id: str) -> RunCounts:
    found = run_counts(connection, run_id)
    assert found is not None
    return found


def written(loaded: LoadCounts) -> tuple[int, int, int]:
    return loaded.inserted, loaded.duplicates, loaded.sealed


def sizes(database_url: str, tables: Sequence[str] = TABLES) -> list[int]:
    return [count for table in tables for (count,) in rows(database_url, f"SELECT count(*) FROM {table}")]


def rows(database_url: str, statement: str) -> list[tuple[Any, ...]]:
    connection = psycopg2.connect(database_url)
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall()
    finally:
        connection.close()


def execute(database_url: str, statement: str) -> None:
    connection = psycopg2.connect(database_url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
    finally:
        connection.close()


def test_rows_ledger_vault_and_books_are_written_together(
    connection: Connection, database_url: str, key_files: KeyFiles
) -> None:
    run_id = open_books(connection, 3)
    batch = masked(key_files, *logins(3))
    assert written(load_logins(connection, batch.logins, batch.sealed, run_id)) == (3, 0, 4)
    assert sizes(database_url) == [3, 3, 4, 2]
    found = counts(connection, run_id)
    assert (found.inserted, found.duplicates, found.unaccounted) == (3, 0, 0)


def test_new_rows_are_counted_by_their_delay_however_often_they_are_loaded(
    connection: Connection, database_url: str, key_files: KeyFiles
) -> None:
    now = int(time.time() * 1000)
    ages = [-5, 0, 0, 12, 100, 5000]  # seconds; the queue's clock may be ahead of the database's
    frame = messages_frame(
        [delivered(login(user_id=f"user-{i}"), sent_ms=now - age * 1000) for i, age in enumerate(ages)]
    )
    batch = masked_of(key_files, frame)
    run_id, books = open_books(connection, 6), "SELECT delay_counts, delay_seconds FROM loginpipe.ingest_runs"
    part = load_logins(connection, batch.logins.iloc[:3], batch.sealed, run_id)
    assert dict(zip(delay_labels(), part.delays, strict=True))["up to 1 s"] == 3
    first = load_logins(connection, batch.logins, Sealed(), run_id)
    assert {label: n for label, n in zip(delay_labels(), first.delays, strict=True) if n} == {
        "up to 1 s": 3, "up to 15 s": 1, "up to 2 min": 1, "over 1 h": 1,
    }  # fmt: skip
    ((booked, seconds),) = rows(database_url, books)
    assert tuple(booked) == first.delays
    assert seconds == pytest.approx(5112, abs=10)

    assert load_logins(connection, batch.logins, Sealed(), run_id).delays == first.delays
    assert rows(database_url, books) == [(booked, seconds)]
    another = load_logins(connection, batch.logins, Sealed(), open_books(connection, 6))
    assert sum(another.delays) == 0


@pytest.mark.parametrize(
    "broken",
    [
        "ALTER TABLE vault.sealed_values RENAME TO away",
        "ALTER TABLE vault.data_keys RENAME COLUMN wrapped_key TO away",
        "ALTER TABLE vault.sealed_values ADD CONSTRAINT refuses CHECK (field <> 'device_id')",
        "ALTER TABLE loginpipe.ingest_runs ADD CONSTRAINT refuses CHECK (inserted = 0)",
        "ALTER TABLE user_logins ADD CONSTRAINT refuses CHECK (user_id <> 'user-2')",
        "ALTER TABLE loginpipe.ingested_messages RENAME TO away",
    ],
    ids=["vault", "data keys", "a sealed value", "books", "a row", "ledger"],
)
def test_what_fails_at_any_step_leaves_nothing_behind(
    connection: Connection, database_url: str, key_files: KeyFiles, broken: str
) -> None:
    run_id = open_books(connection, 3)
    batch = masked(key_files, *logins(3))
    execute(database_url, broken)
    there = [table for table in TABLES if "RENAME TO" not in broken or table not in broken]
    with pytest.raises(DatabaseError) as caught:
        load_logins(connection, batch.logins, batch.sealed, run_id)
    assert sizes(database_url, there) == [0] * len(there)
    found = counts(connection, run_id)
    assert (found.inserted, found.duplicates) == (0, 0)
    said = str(caught.value)
    assert said.startswith("the database refused a statement: ")
    assert "\n" not in said
    assert "user-" not in said
    assert caught.value.__suppress_context__


def test_after_a_failure_the_same_connection_loads_the_batch(
    connection: Connection, database_url: str, key_files: KeyFiles
) -> None:
    run_id = open_books(connection, 3)
    batch = masked(key_files, *logins(3))
    execute(database_url, "ALTER TABLE vault.sealed_values RENAME TO away")
    with pytest.raises(DatabaseError):
        load_logins(connection, batch.logins, batch.sealed, run_id)
    execute(database_url, "ALTER TABLE vault.away RENAME TO sealed_values")
    assert written(load_logins(connection, batch.logins, batch.sealed, run_id)) == (3, 0, 4)


def test_a_step_that_is_tried_again_finds_its_own_rows_and_counts_them_as_inserted(
    connection: Connection, database_url: str, key_files: KeyFiles
) -> None:
    run_id = open_books(connection, 3)
    batch = masked(key_files, *logins(3))
    load_logins(connection, batch.logins, batch.sealed, run_id)
    again = load_logins(connection, batch.logins, batch.sealed, run_id)
    assert (again.inserted, again.duplicates) == (3, 0)
    found = counts(connection, run_id)
    assert (found.inserted, found.duplicates, found.unaccounted) == (3, 0, 0)
    assert sizes(database_url) == [3, 3, 4, 2]


def test_what_an_earlier_run_recorded_counts_as_a_duplicate(
    connection: Connection, database_url: str, key_files: KeyFiles
) -> None:
    batch = masked(key_files, *logins(3))
    first = load_logins(connection, batch.logins.iloc[:2], batch.sealed, open_books(connection, 2))
    run_id = open_books(connection, 3)
    second = load_logins(connection, batch.logins, Sealed(), run_id)
    assert (first.inserted, first.duplicates) == (2, 0)
    assert (second.inserted, second.duplicates) == (1, 2)
    found = counts(connection, run_id)
    assert (found.inserted, found.duplicates, found.unaccounted) == (1, 2, 0)
    assert sizes(database_url)[:2] == [3, 3]


def test_the_books_do_not_balance_where_a_login_was_lost_on_its_way_to_the_table(
    connection: Connection, key_files: KeyFiles
) -> None:
    run_id = open_books(connection, 3)
    batch = masked(key_files, *logins(3))
    load_logins(connection, batch.logins.iloc[:2], batch.sealed, run_id)
    assert counts(connection, run_id).unaccounted == 1


def test_rejects_that_are_recorded_again_in_the_same_run_are_its_own(
    connection: Connection, database_url: str, key_files: KeyFiles
) -> None:
    rejected = split_batch(messages(login(), "{}", "[]")).rejected
    bodies = [(i, body.encode()) for i, body in zip(rejected["message_id"], rejected["body"], strict=True)]
    sealed = seal(bodies, "body", [read_seal_key(key_files.seal_public)])
    arrival = Arrival(str(uuid4()), "queue", datetime.now(UTC), 3, 1, None, None)
    assert record_rejects(connection, rejected, sealed, arrival) == 2
    assert record_rejects(connection, rejected, sealed, arrival) == 2
    tables = ["loginpipe.rejected_messages", "loginpipe.ingested_messages", "vault.data_keys"]
    assert sizes(database_url, tables) == [2, 2, 1]
    found = counts(connection, arrival.run_id)
    assert (found.received, found.rejected, found.duplicates) == (3, 2, 0)


def test_a_message_has_one_outcome_also_where_a_later_version_thinks_otherwise(
    connection: Connection, database_url: str, key_files: KeyFiles
) -> None:
    frame = messages(login())
    batch = mask_logins(split_batch(frame).accepted, read_token_keys(key_files.token_keys))
    load_logins(connection, batch.logins, Sealed(), open_books(connection, 1))
    judged_anew = split_batch(frame.assign(body="{}")).rejected
    arrival = Arrival(str(uuid4()), "queue", datetime.now(UTC), 1, 0, None, None)
    assert record_rejects(connection, judged_anew, Sealed(), arrival) == 0
    assert sizes(database_url, ["user_logins", "loginpipe.rejected_messages"]) == [1, 0]
    assert counts(connection, arrival.run_id).duplicates == 1


def test_an_empty_batch_is_loaded(connection: Connection, database_url: str, key_files: KeyFiles) -> None:
    batch = masked(key_files)
    assert written(load_logins(connection, batch.logins, batch.sealed, open_books(connection, 0))) == (0, 0, 0)
    assert sizes(database_url) == [0, 0, 0, 0]


def test_where_another_run_sealed_some_values_meanwhile_only_the_others_bring_their_data_keys(
    connection: Connection, database_url: str, key_files: KeyFiles
) -> None:
    run_id, number = open_books(connection, 600), 300
    frame = messages(*(login(ip=f"198.51.{i // 200}.{i % 200}", device_id=f"device-{i}") for i in range(number)))
    ours, theirs = masked_of(key_files, frame), masked_of(key_files, frame)
    # Theirs: all addresses, and the devices of the first block but one.
    kept = {*theirs.sealed.blocks[0].subjects, *theirs.sealed.blocks[1].subjects, *theirs.sealed.blocks[2].subjects[1:]}
    earlier = Sealed(theirs.sealed.data_keys, [block.only(kept) for block in theirs.sealed.blocks])
    assert load_logins(connection, ours.logins.iloc[:0], earlier, run_id).sealed == 300 + 255
    assert sizes(database_url, ["vault.sealed_values", "vault.data_keys"]) == [555, 3]
    assert load_logins(connection, ours.logins, ours.sealed, run_id).sealed == 1 + 44
    assert sizes(database_url, ["vault.sealed_values", "vault.data_keys"]) == [600, 5]
    statement = "SELECT DISTINCT data_key_id::text FROM vault.sealed_values ORDER BY 1"
    assert rows(database_url, statement) == rows(database_url, statement.replace("sealed_values", "data_keys"))
    assert load_logins(connection, ours.logins, ours.sealed, run_id).sealed == 0


SLOWLY = """
    CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN PERFORM pg_sleep(0.002); RETURN NEW; END $$;
    CREATE TRIGGER slowly BEFORE INSERT ON loginpipe.ingested_messages FOR EACH ROW EXECUTE FUNCTION slowly();
    CREATE TRIGGER slowly BEFORE INSERT ON vault.sealed_values FOR EACH ROW EXECUTE FUNCTION slowly();
"""
"""Makes sure that loads that begin together meet, row by row: in different orders they would deadlock."""


def test_loaders_that_meet_the_same_messages_record_each_once_and_none_is_a_deadlock_victim(
    database_url: str, key_files: KeyFiles
) -> None:
    execute(database_url, SLOWLY)
    loaders, number = 3, 60
    frame = messages(*(login(user_id=f"user-{i}", device_id=f"device-{i}") for i in range(number)))
    together = Barrier(loaders)

    def load(loader: int) -> LoadCounts:
        batch = masked_of(key_files, frame.sample(frac=1, random_state=loader))
        connection = connect(database_url)
        try:
            run_id = open_books(connection, number)
            together.wait(timeout=30)
            return load_logins(connection, batch.logins, batch.sealed, run_id)
        finally:
            connection.close()

    with ThreadPoolExecutor(loaders) as pool:
        found = list(pool.map(load, range(loaders)))
    assert sum(entry.inserted for entry in found) == number
    assert sum(entry.duplicates for entry in found) == number * (loaders - 1)
    assert sum(entry.sealed for entry in found) == number + 1
    assert sizes(database_url)[:3] == [number, number, number + 1]


def test_loaders_of_different_messages_that_seal_the_same_values_are_no_deadlock_victims_either(
    database_url: str, key_files: KeyFiles
) -> None:
    execute(database_url, SLOWLY)
    loaders, number = 2, 60
    together = Barrier(loaders)

    def load(loader: int) -> LoadCounts:
        bodies = [login(ip=f"198.51.100.{loader}", device_id=f"device-{i}") for i in range(number)]
        batch = masked(key_files, *(bodies if loader else reversed(bodies)))
        connection = connect(database_url)
        try:
            run_id = open_books(connection, number)
            together.wait(timeout=30)
            return load_logins(connection, batch.logins, batch.sealed, run_id)
        finally:
            connection.close()

    with ThreadPoolExecutor(loaders) as pool:
        found = list(pool.map(load, range(loaders)))
    assert [entry.inserted for entry in found] == [number, number]
    assert sum(entry.sealed for entry in found) == number + loaders
