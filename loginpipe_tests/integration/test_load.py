"""Recording a batch on a real database: all of it or nothing, each message once, also with concurrent writers."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from random import Random
from threading import Barrier
from typing import Any
from uuid import uuid4

import psycopg2
import pytest

from loginpipe.common.errors import DatabaseError, SchemaError
from loginpipe.ingest.process import Masking, Outcome
from loginpipe.ingest.record import record_batch
from loginpipe.logins.delays import delay_labels
from loginpipe.masking.sealing import Sealed
from loginpipe.masking.tokens import TokenKeys, derive_field_keys
from loginpipe.postgres.batches import BatchRecord, Finished, RunCounts, roll_up, run_counts
from loginpipe.postgres.connections import Connection, connect
from loginpipe.postgres.token_keys import check_token_keys
from loginpipe_tests.batches import again, masking_of, processed, received
from loginpipe_tests.conftest import KeyFiles
from loginpipe_tests.wire import delivered, login

TABLES = ("user_logins", "loginpipe.ingested_messages", "vault.sealed_values", "vault.data_keys")
ALL_TABLES = (
    *TABLES, "loginpipe.rejected_messages", "loginpipe.batches", "loginpipe.batch_hours", "loginpipe.token_aliases",
)  # fmt: skip
RUN_ID = "00000000-0000-0000-0000-0000000000aa"
AN_HOUR = timedelta(hours=1)


@pytest.fixture
def connection(pipeline_url: str) -> Iterator[Connection]:
    with closing(connect(pipeline_url)) as connection:
        yield connection


@pytest.fixture(scope="session")
def masking(key_files: KeyFiles) -> Masking:
    return masking_of(key_files)


def logins(number: int) -> list[str]:
    return [login(user_id=f"user-{i}", device_id=f"device-{i}") for i in range(number)]


def record(connection: Connection, outcome: Outcome, *finished: Finished) -> BatchRecord:
    return record_batch(connection, outcome, queue="queue", run_id=RUN_ID, finished=finished)


def counts(connection: Connection) -> RunCounts:
    return run_counts(connection, RUN_ID, datetime.now(UTC) - AN_HOUR)


def written(recorded: BatchRecord) -> tuple[int, int, int, int]:
    return recorded.inserted, recorded.duplicates, recorded.rejected, recorded.sealed


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


def contents(database_url: str) -> dict[str, list[Any]]:
    """Return every row of every table that a batch is written to."""
    return {
        table: rows(database_url, f"SELECT to_jsonb(row) FROM {table} AS row ORDER BY row::text")
        for table in ALL_TABLES
    }


def test_rows_rejects_ledger_vault_and_counts_are_written_together(
    connection: Connection, database_url: str, masking: Masking
) -> None:
    outcome = processed(received([*logins(3), "{}"]), masking)
    assert written(record(connection, outcome)) == (3, 0, 1, 4)
    # The rejected body has its own data key.
    assert sizes(database_url) == [3, 4, 4, 3]
    assert sizes(database_url, ["loginpipe.rejected_messages"]) == [1]
    batches = (
        "SELECT batch_id::text, run_id::text, queue, received, accepted, rejected, inserted, duplicates, finished_at"
    )
    assert rows(database_url, f"{batches} FROM loginpipe.batches") == [
        (outcome.batch_id, RUN_ID, "queue", 4, 3, 1, 3, 0, None)
    ]
    assert counts(connection) == RunCounts(4, 3, 1, 3, 0, 0, 0, 0)
    ledger = "SELECT DISTINCT batch_id::text FROM loginpipe.ingested_messages"
    assert rows(database_url, ledger) == [(outcome.batch_id,)]


def test_outside_of_dagster_a_batch_has_no_run(connection: Connection, database_url: str, masking: Masking) -> None:
    record_batch(connection, processed(received(logins(1)), masking), queue="queue")
    assert rows(database_url, "SELECT run_id, inserted FROM loginpipe.batches") == [(None, 1)]


def test_a_batch_spans_the_times_that_its_messages_were_sent_and_begins_when_the_first_was_received(
    connection: Connection, database_url: str, masking: Masking
) -> None:
    noon = int(datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp() * 1000)
    record(
        connection,
        processed(
            [
                delivered(login(), sent_ms=noon, received_ms=noon + 9_000),
                delivered("{}", sent_ms=noon - 5_000, received_ms=noon + 7_000),
                delivered(login(), sent_ms=noon + 1_500, received_ms=noon + 8_000),
            ],
            masking,
        ),
    )
    times = "SELECT oldest_sent_at, newest_sent_at, started_at FROM loginpipe.batches"
    at = datetime.fromtimestamp(noon / 1000, UTC)
    assert rows(database_url, times) == [
        (at - timedelta(seconds=5), at + timedelta(seconds=1.5), at + timedelta(seconds=7))
    ]


def test_new_rows_are_counted_by_their_delay_however_often_they_are_recorded(
    connection: Connection, database_url: str, masking: Masking
) -> None:
    now = int(time.time() * 1000)
    # In seconds. The queue's clock may be ahead of the database's. Processing may take a minute.
    ages = [-300, -60, -60, 130, 1000, 5000]
    outcome = processed(
        [delivered(login(user_id=f"user-{i}"), sent_ms=now - age * 1000) for i, age in enumerate(ages)], masking
    )
    first = record(connection, outcome)
    assert {label: n for label, n in zip(delay_labels(), first.delays, strict=True) if n} == {
        "up to 1 s": 3, "up to 5 min": 1, "up to 30 min": 1, "over 1 h": 1,
    }  # fmt: skip
    stored = "SELECT delay_counts, delay_seconds FROM loginpipe.batches ORDER BY recorded_at"
    ((booked, seconds),) = rows(database_url, stored)
    assert booked == list(first.delays)
    assert seconds == pytest.approx(6130, abs=180)
    assert seconds == pytest.approx(first.delay_seconds)

    assert record(connection, outcome).delays == first.delays
    assert rows(database_url, stored) == [(booked, seconds)]
    another = record(connection, again(outcome))
    assert (sum(another.delays), another.delay_seconds) == (0, 0)


def test_rows_are_counted_by_the_utc_day_of_the_login(
    connection: Connection, database_url: str, masking: Masking
) -> None:
    midnight = int(datetime(2026, 11, 21, tzinfo=UTC).timestamp() * 1000)
    messages = [delivered(login(user_id=f"user-{i}"), sent_ms=midnight + ms) for i, ms in
                enumerate([-86_400_001, -1, -1, 0, 86_399_999, 0, 0])]  # fmt: skip
    messages += [delivered("{}", sent_ms=midnight), delivered("{}", sent_ms=midnight - 3 * 86_400_000)]
    record(connection, processed(messages[3:4], masking))
    found = record(connection, processed(messages, masking))
    by_day = {date(2026, 11, 19): 1, date(2026, 11, 20): 2, date(2026, 11, 21): 3}
    assert found.rows_by_day == by_day, "neither the duplicate nor rejects"
    stored = "SELECT days, rows_by_day FROM loginpipe.batches WHERE received = 9"
    ((days, by_rows),) = rows(database_url, stored)
    assert dict(zip(days, by_rows, strict=True)) == by_day
    table = "SELECT create_date, count(*)::integer FROM user_logins GROUP BY 1"
    assert dict(rows(database_url, table)) == {**by_day, date(2026, 11, 21): 4}


AT_COMMIT = """
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused at commit'; END $$;
    CREATE CONSTRAINT TRIGGER refuses AFTER INSERT ON loginpipe.batches
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse();
"""
TWO_KEYS = TokenKeys(2, {version: derive_field_keys(bytes([version]) * 32) for version in (1, 2)})


@pytest.mark.parametrize(
    "broken",
    [
        "ALTER TABLE loginpipe.erased_users RENAME TO away",
        "ALTER TABLE loginpipe.rejected_messages RENAME TO away",
        "ALTER TABLE vault.data_keys RENAME COLUMN wrapped_key TO away",
        "ALTER TABLE loginpipe.ingested_messages RENAME TO away",
        "ALTER TABLE user_logins ADD CONSTRAINT refuses CHECK (user_id <> 'user-2')",
        "ALTER TABLE vault.sealed_values RENAME TO away",
        "ALTER TABLE vault.sealed_values ADD CONSTRAINT refuses CHECK (field <> 'device_id') NOT VALID",
        "ALTER TABLE loginpipe.batches ADD CONSTRAINT refuses CHECK (deleted = 0)",
        "ALTER TABLE loginpipe.batches ADD CONSTRAINT refuses CHECK (inserted < 3)",
        "ALTER TABLE loginpipe.token_aliases RENAME TO away",
        AT_COMMIT,
    ],
    ids=["erasures", "rejects", "data keys", "ledger", "a row", "vault", "a sealed value",
         "deletes of an earlier batch", "the batch", "aliases", "commit"],
)  # fmt: skip
def test_what_fails_at_any_step_leaves_nothing_behind(
    connection: Connection, database_url: str, masking: Masking, broken: str
) -> None:
    before = processed(received(logins(1)), masking)
    record(connection, before)
    there = contents(database_url)
    outcome = processed(received([*logins(3), "{}"]), replace(masking, keys=TWO_KEYS))
    assert outcome.logins.aliases
    execute(database_url, broken)
    with pytest.raises(DatabaseError) as caught:
        record(connection, outcome, Finished(before.batch_id, 1, 0, 0))
    for away in ("loginpipe.rejected_messages", "loginpipe.ingested_messages", "vault.sealed_values",
                 "loginpipe.token_aliases"):  # fmt: skip
        if f"ALTER TABLE {away} RENAME TO" in broken:
            execute(database_url, f"ALTER TABLE {away.partition('.')[0]}.away RENAME TO {away.partition('.')[2]}")
    if "RENAME COLUMN" in broken:
        execute(database_url, "ALTER TABLE vault.data_keys RENAME COLUMN away TO wrapped_key")
    assert contents(database_url) == there
    said = str(caught.value)
    assert said.startswith("the database refused a statement: ")
    assert "\n" not in said
    assert "user-" not in said
    assert caught.value.__suppress_context__


def test_after_a_failure_the_same_connection_records_the_batch(
    connection: Connection, database_url: str, masking: Masking
) -> None:
    outcome = processed(received(logins(3)), masking)
    execute(database_url, "ALTER TABLE vault.sealed_values RENAME TO away")
    with pytest.raises(DatabaseError):
        record(connection, outcome)
    execute(database_url, "ALTER TABLE vault.away RENAME TO sealed_values")
    assert written(record(connection, outcome)) == (3, 0, 0, 4)


def test_a_batch_that_is_recorded_again_changes_nothing_and_has_the_same_counts(
    connection: Connection, database_url: str, pipeline_url: str, masking: Masking
) -> None:
    """This happens when the answer to a commit is lost: the batch comes again, on the same or a new connection."""
    earlier = processed(received(logins(2)), masking)
    record(connection, earlier)
    messages = received([*logins(3), "{}", "[]"])
    record(connection, processed(messages[2:4], masking))
    outcome = processed(messages, masking)
    first = record(connection, outcome)
    assert (first.inserted, first.duplicates, first.rejected) == (2, 2, 1)
    there = contents(database_url)
    with closing(connect(pipeline_url)) as another:
        for on in (connection, another):
            # The batch does not store how many values were new in the vault.
            assert record(on, outcome) == replace(first, sealed=0)
            assert contents(database_url) == there


def test_what_became_of_deletes_is_written_with_the_next_batch_also_where_that_is_recorded_again(
    connection: Connection, database_url: str, masking: Masking
) -> None:
    first, second, third = (processed(received(logins(number)), masking) for number in (3, 2, 1))
    record(connection, first)
    record(connection, second, Finished(first.batch_id, 2, 1, 0))
    record(connection, third)
    record(connection, third, Finished(second.batch_id, 1, 0, 1))
    found = "SELECT received, deleted, delete_failures, leases_lost, finished_at >= recorded_at FROM loginpipe.batches"
    assert rows(database_url, f"{found} ORDER BY received DESC") == [
        (3, 2, 1, 0, True), (2, 1, 0, 1, True), (1, 0, 0, 0, None),
    ]  # fmt: skip
    assert counts(connection) == RunCounts(6, 6, 0, 6, 0, 3, 1, 1)


def test_what_an_earlier_batch_recorded_counts_as_a_duplicate(
    connection: Connection, database_url: str, masking: Masking
) -> None:
    messages = received([*logins(3), "{}"])
    first = record(connection, processed([messages[0], messages[3]], masking))
    second = record(connection, processed(messages, masking))
    assert (first.inserted, first.duplicates, first.rejected) == (1, 0, 1)
    assert (second.inserted, second.duplicates, second.rejected) == (2, 2, 0)
    assert counts(connection).unaccounted == 0
    assert sizes(database_url)[:2] == [3, 4]
    third = record(connection, processed(messages, masking))
    assert (third.inserted, third.duplicates, third.rows_by_day) == (0, 4, {})


def test_the_counts_do_not_add_up_where_a_login_was_lost_on_its_way_to_the_table(
    connection: Connection, masking: Masking
) -> None:
    outcome = processed(received([*logins(3), "{}"]), masking)
    columns = {name: values[:2] for name, values in outcome.logins.columns.items()}
    record(connection, replace(outcome, logins=replace(outcome.logins, columns=columns)))
    assert counts(connection).unaccounted == 1


def test_a_message_has_one_outcome_also_where_a_later_version_thinks_otherwise(
    connection: Connection, database_url: str, masking: Masking
) -> None:
    message = delivered(login())
    record(connection, processed([message], masking))
    found = record(connection, processed([message._replace(body="{}")], masking))
    assert (found.inserted, found.duplicates, found.rejected) == (0, 1, 0)
    assert sizes(database_url, ["user_logins", "loginpipe.rejected_messages", "vault.data_keys"]) == [1, 0, 2]


def test_a_batch_of_rejects_alone_is_recorded_and_without_sealing_no_body_is_kept(
    connection: Connection, database_url: str, masking: Masking
) -> None:
    found = record(connection, processed(received(["{}", ""]), replace(masking, recipients=())))
    assert written(found) == (0, 0, 2, 0)
    stored = "SELECT reasons, fields, sealed_body, data_key_id FROM loginpipe.rejected_messages ORDER BY reasons"
    assert [row[2:] for row in rows(database_url, stored)] == [(None, None)] * 2
    assert sizes(database_url) == [0, 2, 0, 0]


def test_where_another_batch_sealed_some_values_meanwhile_only_the_others_bring_their_data_keys(
    connection: Connection, database_url: str, masking: Masking
) -> None:
    number = 300
    messages = received(login(ip=f"198.51.{i // 200}.{i % 200}", device_id=f"device-{i}") for i in range(number))
    ours, theirs = processed(messages, masking), processed(messages, masking)
    # Their values: all addresses, and the devices of one block except the first.
    kept = {*theirs.sealed.blocks[0].subjects, *theirs.sealed.blocks[1].subjects, *theirs.sealed.blocks[2].subjects[1:]}
    blocks = [block.only(kept) for block in theirs.sealed.blocks[:3]]
    used = {block.data_key_id for block in blocks}
    earlier = Sealed([key for key in theirs.sealed.data_keys if key.data_key_id in used], blocks)
    assert record(connection, replace(theirs, sealed=earlier)).sealed == 300 + 255
    assert sizes(database_url, ["vault.sealed_values", "vault.data_keys"]) == [555, 3]
    assert record(connection, ours).sealed == 1 + 44
    assert sizes(database_url, ["vault.sealed_values", "vault.data_keys"]) == [600, 5]
    statement = "SELECT DISTINCT data_key_id::text FROM vault.sealed_values ORDER BY 1"
    assert rows(database_url, statement) == rows(database_url, statement.replace("sealed_values", "data_keys"))
    assert record(connection, again(ours)).sealed == 0


# --- a table that is not as it should be ------------------------------------------------------------------------------

KEEPS_OUT = {
    "drops a row": """
        CREATE FUNCTION keep_out() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN RETURN CASE WHEN NEW.user_id <> 'user-1' THEN NEW END; END $$;
        CREATE TRIGGER keep_out BEFORE INSERT ON user_logins FOR EACH ROW EXECUTE FUNCTION keep_out();
    """,
    "redirects all": """
        CREATE TABLE elsewhere (LIKE user_logins);
        GRANT INSERT ON elsewhere TO PUBLIC;
        CREATE FUNCTION keep_out() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN INSERT INTO elsewhere VALUES (NEW.*); RETURN NULL; END $$;
        CREATE TRIGGER keep_out BEFORE INSERT ON user_logins FOR EACH ROW EXECUTE FUNCTION keep_out();
    """,
}


@pytest.mark.parametrize("how", KEEPS_OUT)
def test_a_trigger_that_keeps_rows_out_of_the_table_is_refused_and_nothing_is_recorded(
    connection: Connection, database_url: str, masking: Masking, how: str
) -> None:
    execute(database_url, KEEPS_OUT[how])
    before = contents(database_url)
    with pytest.raises(SchemaError) as caught:
        record(connection, processed(received([*logins(3), "{}"]), masking))
    assert not caught.value.is_about_a_row
    assert str(caught.value).startswith(f"user_logins took {2 if how == 'drops a row' else 0} of 3 rows: a trigger")
    assert contents(database_url) == before
    if how == "redirects all":
        assert sizes(database_url, ["elsewhere"]) == [0]


def test_temporary_tables_are_made_once_a_connection_and_the_catalogue_stays_as_it_is(
    connection: Connection, database_url: str, masking: Masking
) -> None:
    keys = replace(masking, keys=TWO_KEYS)
    catalogue = """
        SELECT count(*), (SELECT count(*) FROM pg_attribute), (SELECT array_agg(oid ORDER BY oid) FROM pg_class
            WHERE relname LIKE 'incoming%' AND relpersistence = 't')
        FROM pg_class
    """
    changes = """
        SELECT sum(n_tup_ins + n_tup_del) FROM pg_stat_sys_tables
        WHERE relname IN ('pg_class', 'pg_attribute', 'pg_type', 'pg_depend')
    """

    def small_batch() -> Outcome:
        return processed(received([login(device_id=str(uuid4())), "{}"]), keys)

    check_token_keys(connection, TWO_KEYS)
    record(connection, small_batch())
    before, changed = rows(database_url, catalogue), in_statistics(connection, database_url, changes)
    for _ in range(10):
        record(connection, small_batch())
    assert rows(database_url, catalogue) == before
    assert in_statistics(connection, database_url, changes) == changed
    assert sizes(database_url, ["user_logins", "loginpipe.rejected_messages"]) == [11, 11]


def in_statistics(connection: Connection, database_url: str, statement: str) -> list[Any]:
    """Return the rows of a query after the statistics of this connection are flushed."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_force_next_flush()")
    connection.rollback()
    return rows(database_url, statement)


# --- hours ------------------------------------------------------------------------------------------------------------

TODAY = date(2026, 11, 21)
SUMS = """
    received, accepted, rejected, inserted, duplicates, deleted, delete_failures, leases_lost, delay_seconds
""".strip().split(", ")


def put_batches(database_url: str, number: int, *, day: date, seed: int) -> None:
    """Insert batches of two queues, with random counts, in the first three hours of a day."""
    random = Random(seed)
    for _ in range(number):
        values = [random.randrange(1000) for _ in SUMS]
        recorded_at = datetime(day.year, day.month, day.day, tzinfo=UTC) + random.random() * 3 * AN_HOUR
        delays = "{" + ",".join(str(random.randrange(50)) for _ in range(14)) + "}"
        finished = f"'{recorded_at + timedelta(seconds=3)}'" if random.random() < 0.8 else "NULL"
        execute(
            database_url,
            f"INSERT INTO loginpipe.batches (batch_id, queue, started_at, recorded_at, finished_at, newest_sent_at, "
            f"delay_counts, {', '.join(SUMS)}) VALUES (gen_random_uuid(), '{random.choice('ab')}', '{recorded_at}', "
            f"'{recorded_at}', {finished}, '{recorded_at - AN_HOUR}', '{delays}', {', '.join(map(str, values))})",
        )


def sums(database_url: str) -> list[Any]:
    """Return all counts of batches and hours together, by queue."""
    names = ", ".join(SUMS)
    summed = ", ".join(f"sum({name})::bigint" for name in SUMS)
    delays = ", ".join(f"sum(delay_counts[{place}])::bigint" for place in range(1, 15))
    return rows(
        database_url,
        f"SELECT queue, sum(batches)::bigint, max(finished_at), max(newest_sent_at), {summed}, {delays} FROM ("
        f"SELECT queue, 1 AS batches, finished_at, newest_sent_at, delay_counts::bigint[], {names} "
        "FROM loginpipe.batches UNION ALL "
        f"SELECT queue, batches, last_finished_at, newest_sent_at, delay_counts, {names} FROM loginpipe.batch_hours"
        ") AS together GROUP BY queue ORDER BY queue",
    )


def test_old_batches_become_sums_of_their_hours_and_nothing_is_lost_or_counted_twice(
    connection: Connection, database_url: str
) -> None:
    old, kept = TODAY - timedelta(days=32), TODAY - timedelta(days=31)
    put_batches(database_url, 40, day=old, seed=1)
    put_batches(database_url, 10, day=kept, seed=2)
    before = sums(database_url)
    assert len(before) == 2
    assert roll_up(connection, TODAY) == 3
    assert sizes(database_url, ["loginpipe.batches", "loginpipe.batch_hours"]) == [10, 6]
    assert sums(database_url) == before
    assert roll_up(connection, TODAY) == 0
    assert sums(database_url) == before


def test_batches_that_come_late_are_added_to_the_hours_that_exist(connection: Connection, database_url: str) -> None:
    old = TODAY - timedelta(days=40)
    for seed in (1, 2, 3):
        put_batches(database_url, 20, day=old, seed=seed)
        before = sums(database_url)
        assert roll_up(connection, TODAY) == 3
        assert sizes(database_url, ["loginpipe.batches", "loginpipe.batch_hours"]) == [0, 6]
        assert sums(database_url) == before


def test_an_hour_that_cannot_be_moved_stays_as_batches(connection: Connection, database_url: str) -> None:
    put_batches(database_url, 20, day=TODAY - timedelta(days=40), seed=1)
    execute(database_url, "ALTER TABLE loginpipe.batch_hours ADD CONSTRAINT refuses CHECK (batches < 1)")
    with pytest.raises(DatabaseError, match="refuses"):
        roll_up(connection, TODAY)
    assert sizes(database_url, ["loginpipe.batches", "loginpipe.batch_hours"]) == [20, 0]


# --- together ---------------------------------------------------------------------------------------------------------

SLOWLY = """
    CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN PERFORM pg_sleep(0.002); RETURN NEW; END $$;
    CREATE TRIGGER slowly BEFORE INSERT ON loginpipe.ingested_messages FOR EACH ROW EXECUTE FUNCTION slowly();
    CREATE TRIGGER slowly BEFORE INSERT ON vault.sealed_values FOR EACH ROW EXECUTE FUNCTION slowly();
"""
"""Slows the inserts down, so that concurrent loads meet row by row. In different orders they would deadlock."""


def test_batches_that_meet_the_same_messages_record_each_once_and_none_is_a_deadlock_victim(
    database_url: str, masking: Masking
) -> None:
    execute(database_url, SLOWLY)
    loaders, number = 3, 60
    messages = received([*logins(number), *["{}"] * number])
    together = Barrier(loaders)

    def load(loader: int) -> BatchRecord:
        outcome = processed(Random(loader).sample(messages, len(messages)), masking)
        with closing(connect(database_url)) as connection:
            together.wait(timeout=30)
            return record(connection, outcome)

    with ThreadPoolExecutor(loaders) as pool:
        found = list(pool.map(load, range(loaders)))
    assert sum(entry.inserted for entry in found) == number
    assert sum(entry.rejected for entry in found) == number
    assert sum(entry.duplicates for entry in found) == 2 * number * (loaders - 1)
    assert sum(entry.sealed for entry in found) == number + 1
    assert sizes(database_url)[:3] == [number, 2 * number, number + 1]


def test_batches_of_different_messages_that_seal_the_same_values_are_no_deadlock_victims_either(
    database_url: str, masking: Masking
) -> None:
    execute(database_url, SLOWLY)
    loaders, number = 2, 60
    together = Barrier(loaders)

    def load(loader: int) -> BatchRecord:
        bodies = [login(ip=f"198.51.100.{loader}", device_id=f"device-{i}") for i in range(number)]
        outcome = processed(received(bodies if loader else reversed(bodies)), masking)
        with closing(connect(database_url)) as connection:
            together.wait(timeout=30)
            return record(connection, outcome)

    with ThreadPoolExecutor(loaders) as pool:
        found = list(pool.map(load, range(loaders)))
    assert [entry.inserted for entry in found] == [number, number]
    assert sum(entry.sealed for entry in found) == number + loaders
