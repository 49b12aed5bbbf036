"""Runs on a table that was there before, with constraints and triggers of its own."""

from contextlib import closing

import pytest

from loginpipe.ingest.record import Recorder
from loginpipe.postgres.migrate import migrate
from loginpipe.postgres.session import Session
from loginpipe_tests.batches import masking_of, received
from loginpipe_tests.commands import Command, command_line
from loginpipe_tests.conftest import PIPELINE, KeyFiles, Pipeline, as_role, execute
from loginpipe_tests.wire import (
    Custodian,
    cause_of_failure,
    checks,
    eventually,
    login,
    logins,
    metadata,
    take,
    users,
)

TABLE = """
    CREATE TABLE public.user_logins (
        user_id varchar(128), device_type varchar(32), masked_ip varchar(256), masked_device_id varchar(256),
        locale varchar(32) NOT NULL, app_version integer CONSTRAINT only_released CHECK (app_version >= 1000000),
        create_date date
    )
"""


@pytest.fixture
def adopted(pipeline: Pipeline, empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """The chain on a table that allows no unreleased version and no missing locale."""
    execute(empty_database_url, TABLE)
    assert migrate(empty_database_url).adopted
    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", as_role(empty_database_url, PIPELINE))
    return Pipeline(pipeline.queue, empty_database_url, pipeline.instance)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return command_line(monkeypatch, capsys)


def test_rows_that_the_table_refuses_are_rejected_and_hold_up_no_others(
    adopted: Pipeline, key_files: KeyFiles, command: Command
) -> None:
    refused = {
        login(user_id="unreleased", app_version="0.96"): "only_released",
        login(user_id="no locale", locale=None): "locale",
    }
    good = logins(20)
    adopted.send([*good[:7], *refused, *good[7:], "{}"])
    result = take(adopted, 10)
    assert result.success
    assert users(adopted) == sorted(f"user-{i}" for i in range(20))
    opened = Custodian(adopted, key_files).bodies()
    found = adopted.rows(
        "SELECT message_id::text, fields FROM loginpipe.rejected_messages WHERE reasons = '{refused_by_database}'"
    )
    assert {opened[message_id].decode(): fields for message_id, fields in found} == {
        body: [about] for body, about in refused.items()
    }
    assert adopted.rows("SELECT sum(received), sum(inserted), sum(rejected) FROM loginpipe.batches") == [(23, 20, 3)]
    assert adopted.depth() == (0, 0)
    outcome = metadata(result)
    assert outcome["rejected_logins"]["reasons"] == {"refused_by_database": 2, "missing": 1}
    assert outcome["user_logins_table"]["deleted"] == 23
    assert checks(result)["counts_add_up"]
    listed = command("rejects", "list", "--reason", "refused_by_database", "--json").json
    assert sorted(reject["message_id"] for reject in listed) == sorted(message_id for message_id, _ in found)
    assert sorted(reject["fields"] for reject in listed) == [["locale"], ["only_released"]]


def test_a_refused_row_that_is_delivered_again_is_a_duplicate_and_is_not_tried_on_the_table(
    adopted: Pipeline, key_files: KeyFiles
) -> None:
    messages = received([login(app_version="0.96"), login()])
    with closing(Session(as_role(adopted.database_url, PIPELINE))) as session:
        recorder = Recorder(session, masking_of(key_files), queue="queue")
        first, again = ([batch.record for batch in recorder.record(messages)] for _ in range(2))
    assert sorted((record.received, record.inserted, record.rejected) for record in first) == [(1, 0, 1), (1, 1, 0)]
    assert [(record.received, record.duplicates) for record in again] == [(2, 2)], "in one batch"
    assert adopted.rows("SELECT count(*) FROM loginpipe.rejected_messages") == [(1,)]


def test_a_trigger_that_drops_rows_fails_the_run_before_anything_is_deleted(adopted: Pipeline) -> None:
    execute(
        adopted.database_url,
        """
        CREATE FUNCTION drop_some() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RETURN CASE WHEN NEW.user_id = 'user-3' THEN NULL ELSE NEW END;
        END $$;
        CREATE TRIGGER drop_some BEFORE INSERT ON user_logins FOR EACH ROW EXECUTE FUNCTION drop_some()
        """,
    )
    adopted.send(logins(5))
    failed = take(adopted, 5)
    assert cause_of_failure(failed) == (
        "SchemaError: user_logins took 4 of 5 rows: a trigger or a rule keeps rows out of it; nothing was recorded, "
        "see them with \\d user_logins in psql and remove what does it"
    )
    assert users(adopted) == []
    for table in ("ingested_messages", "rejected_messages", "batches"):
        assert adopted.rows(f"SELECT count(*) FROM loginpipe.{table}") == [(0,)]
    eventually(lambda: adopted.depth() == (5, 0), "the messages back on the queue")
    execute(adopted.database_url, "DROP TRIGGER drop_some ON user_logins")
    assert take(adopted, 5).success
    assert len(users(adopted)) == 5
