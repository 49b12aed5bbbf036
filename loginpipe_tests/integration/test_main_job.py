"""The pipeline on a real queue and a real database, without failures."""

import json
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from ipaddress import ip_address
from itertools import count
from typing import Any

import dagster as dg
import pytest

from loginpipe.common.errors import DatabaseError
from loginpipe.defs.metadata import CHAIN
from loginpipe.ingest.process import Outcome
from loginpipe.ingest.record import Recorded, Recorder, record_batch
from loginpipe.local.sample_events import sample_bodies
from loginpipe.logins.messages import Message
from loginpipe.postgres.batches import BatchRecord
from loginpipe.postgres.connections import Connection, connect
from loginpipe_tests.batches import masking_of, processed
from loginpipe_tests.conftest import KeyFiles, Pipeline
from loginpipe_tests.wire import (
    Custodian,
    at_the_wire,
    cause_of_failure,
    checks,
    delivered,
    depth,
    eventually,
    ingest,
    logged,
    login,
    logins,
    metadata,
    tables,
    take,
)


def test_a_batch_becomes_rows_and_rejects_and_the_queue_is_empty(pipeline: Pipeline) -> None:
    pipeline.send(sample_bodies(300, seed=1, bad_share=0.1))
    assert pipeline.run().success
    ((received, inserted, rejected),) = pipeline.rows(
        "SELECT sum(received)::integer, sum(inserted)::integer, sum(rejected)::integer FROM loginpipe.batches"
    )
    assert (received, inserted + rejected) == (300, 300)
    assert rejected > 10
    assert pipeline.rows("SELECT count(*) FROM user_logins") == [(inserted,)]
    assert pipeline.rows("SELECT count(*) FROM loginpipe.rejected_messages") == [(rejected,)]
    assert pipeline.depth() == (0, 0)


def test_the_table_has_the_columns_that_others_rely_on(pipeline: Pipeline) -> None:
    columns = """
        SELECT column_name, data_type, character_maximum_length
        FROM information_schema.columns
        WHERE (table_schema, table_name) = ('public', 'user_logins')
        ORDER BY ordinal_position
    """
    assert pipeline.rows(columns) == [
        ("user_id", "character varying", 128),
        ("device_type", "character varying", 32),
        ("masked_ip", "character varying", 256),
        ("masked_device_id", "character varying", 256),
        ("locale", "character varying", 32),
        ("app_version", "integer", None),
        ("create_date", "date", None),
    ]


def test_a_login_arrives_with_tokens_in_place_of_address_and_device(pipeline: Pipeline) -> None:
    ingest(pipeline, login())
    ((user_id, device_type, masked_ip, masked_device_id, locale, app_version, create_date),) = pipeline.rows(
        "SELECT * FROM user_logins"
    )
    assert (user_id, device_type, locale) == ("424cdd21-063a-43a7-b91b-7ca1a833afae", "android", "RU")
    assert app_version == 2_003_000
    assert abs((create_date - datetime.now(UTC).date()).days) <= 1  # midnight may pass during the test
    matches = "SELECT %s ~ '^ip[.]v1[.][A-Za-z0-9_-]{43}$', %s ~ '^dev[.]v1[.][A-Za-z0-9_-]{43}$'"
    assert pipeline.rows(matches, masked_ip, masked_device_id) == [(True, True)]


def test_versions_become_integers_that_sort_and_decode(pipeline: Pipeline) -> None:
    versions = {"5": 5_000_000, "0.96": 96_000, "9.6": 9_006_000, "2.3.0": 2_003_000, "2146.999.999": 2_146_999_999}
    ingest(pipeline, *(login(user_id=text, app_version=text) for text in versions), login(user_id="7", app_version=7))
    found = dict(pipeline.rows("SELECT user_id, app_version FROM user_logins"))
    assert found == {**versions, "7": 7_000_000}
    decoded = dict(pipeline.rows("SELECT user_id, loginpipe.app_version_text(app_version) FROM user_logins"))
    assert (decoded["0.96"], decoded["9.6"], decoded["7"]) == ("0.96.0", "9.6.0", "7.0.0")


def test_an_empty_locale_stays_empty_and_one_that_is_null_or_absent_is_null(pipeline: Pipeline) -> None:
    absent = json.loads(login(user_id="absent"))
    del absent["locale"]
    texts = {"": "empty", "NULL": "word", "\\N": "marker"}
    ingest(
        pipeline,
        login(user_id="null", locale=None),
        json.dumps(absent),
        *(login(user_id=user, locale=locale) for locale, user in texts.items()),
    )
    found = dict(pipeline.rows("SELECT user_id, locale FROM user_logins"))
    assert found == {"null": None, "absent": None, "empty": "", "word": "NULL", "marker": "\\N"}


def test_text_arrives_as_it_was_sent(pipeline: Pipeline) -> None:
    texts = {
        "tab\there", "line\nbreak", "carriage\rreturn", "\\N", "\\.", "back\\slash", "\\x41", "\\", "'single'",
        '"double"', "{array}", "a,b", "%s %(name)s", "😀 emoji", "\U0001d518 \U0010ffff", "e\u0301 decomposed",
        "a\u2028\u202e", "\x01\x1b\x7f", " spaces around ", "ключ 键",
    }  # fmt: skip
    ingest(pipeline, *(login(user_id=text) for text in texts))
    assert {user_id for (user_id,) in pipeline.rows("SELECT user_id FROM user_logins")} == texts


@pytest.fixture
def far_from_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")  # 14 hours ahead of UTC
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("far_from_utc")
def test_a_login_belongs_to_the_utc_day_on_which_it_was_sent(database_url: str, key_files: KeyFiles) -> None:
    midnight = datetime(2026, 3, 1, tzinfo=UTC)
    sent = {"before": int(midnight.timestamp() * 1000) - 1, "at": int(midnight.timestamp() * 1000)}
    later = int(midnight.timestamp() * 1000) + 90_000_000
    messages = [
        delivered(login(user_id=user), sent_ms=sent_ms, received_ms=later, receive_count=2)
        for user, sent_ms in sent.items()
    ]
    connection = connect(database_url)
    try:
        record = record_batch(connection, processed(messages, masking_of(key_files)), queue="queue")
        with connection.cursor() as cursor:
            cursor.execute("SELECT user_id, create_date FROM user_logins")
            found = dict(cursor.fetchall())
            cursor.execute("SELECT message_id::text, sent_on FROM loginpipe.ingested_messages")
            ledger = dict(cursor.fetchall())
    finally:
        connection.close()
    assert found == {"before": date(2026, 2, 28), "at": date(2026, 3, 1)}
    assert record.rows_by_day == {date(2026, 2, 28): 1, date(2026, 3, 1): 1}
    assert ledger == {messages[0].message_id: date(2026, 2, 28), messages[1].message_id: date(2026, 3, 1)}


def test_every_asset_is_materialised_and_says_how_many_rows(pipeline: Pipeline) -> None:
    result = ingest(pipeline, *logins(3), "{}")
    found = metadata(result)
    assert tuple(found) == CHAIN
    assert [found[asset]["dagster/row_count"] for asset in CHAIN] == [4, 3, 1, 3, 3]
    assert found["user_logins_table"]["deleted"] == 4
    assert found["rejected_logins"]["reasons"] == {"missing": 1}


def test_what_one_would_rather_look_at_is_drawn(pipeline: Pipeline) -> None:
    found = metadata(ingest(pipeline, *logins(3), "{}"))
    plots = {(asset, name) for asset in CHAIN for name, value in found[asset].items() if "```text" in str(value)}
    assert plots == {
        ("raw_sqs_messages", "messages_per_minute"),
        ("rejected_logins", "by_reason"),
        ("masked_logins", "seen_before"),
        ("user_logins_table", "delay"),
        ("user_logins_table", "rows_by_day"),
    }


def test_every_check_is_made_and_passes(pipeline: Pipeline) -> None:
    names = {"reject_rate", "schema_drift", "only_tokens", "counts_add_up", "delay_within_limit"}
    assert checks(ingest(pipeline, *logins(3))) == dict.fromkeys(names, True)


def test_too_many_rejects_fail_the_check_and_not_the_load(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGINPIPE_MAX_REJECT_RATE", "0")
    result = ingest(pipeline, *logins(3), "{}")
    assert [name for name, passed in checks(result).items() if not passed] == ["reject_rate"]
    assert pipeline.rows("SELECT count(*) FROM user_logins") == [(3,)]
    assert pipeline.depth() == (0, 0)


def test_fields_outside_the_contract_are_shown_by_name_and_reject_nothing(pipeline: Pipeline) -> None:
    result = ingest(pipeline, login(session="s-1"), login(session="s-2", **{"10.0.0.1": "x"}))
    assert metadata(result)["validated_logins"]["unknown_fields"] == {"session": 2, "(name not shown)": 1}
    assert [name for name, passed in checks(result).items() if not passed] == ["schema_drift"]
    assert pipeline.rows("SELECT count(*) FROM user_logins") == [(2,)]


def test_what_becomes_of_fields_outside_the_contract_is_said_and_done(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(result: dg.ExecuteInProcessResult) -> str:
        (check,) = [c for c in result.get_asset_check_evaluations() if c.check_name == "schema_drift"]
        fate = str(metadata(result)["validated_logins"]["unknown_fields_are"])
        assert check.description == f"2 unknown fields: {fate}"
        return fate

    body = login(country="DE", email="ann@example.com")
    assert said(ingest(pipeline, body)) == "kept sealed"
    monkeypatch.setenv("LOGINPIPE_EXTRA_FIELDS", "country,email")
    result = ingest(pipeline, body)
    assert said(result) == "country, email stored in clear, others kept sealed"
    assert any("stores email in clear, which looks like personal data" in line for line in logged(pipeline, result))
    monkeypatch.setenv("LOGINPIPE_EXTRA_FIELDS", "country")
    monkeypatch.setenv("LOGINPIPE_UNKNOWN_FIELDS", "drop")
    assert said(ingest(pipeline, body)).endswith("others dropped, since LOGINPIPE_UNKNOWN_FIELDS is drop")
    monkeypatch.setenv("LOGINPIPE_UNKNOWN_FIELDS", "seal")
    monkeypatch.setenv("LOGINPIPE_SEAL_KEY", "off")
    result = ingest(pipeline, body)
    assert said(result).endswith("others dropped, since LOGINPIPE_SEAL_KEY is off")
    assert any("unknown fields of logins are dropped" in line for line in logged(pipeline, result))
    clear, both = {"country": "DE"}, {"email": "ann@example.com", "country": "DE"}
    stored = pipeline.rows("SELECT extras, sealed_extras IS NOT NULL FROM loginpipe.login_extras")
    assert sorted(stored, key=str) == sorted([(None, True), (both, False), (clear, False), (clear, False)], key=str)


def test_a_second_run_changes_nothing(pipeline: Pipeline) -> None:
    ingest(pipeline, *logins(3), "{}")
    before = tables(pipeline)
    result = pipeline.run()
    assert result.success
    assert tables(pipeline) == before
    assert metadata(result)["raw_sqs_messages"]["dagster/row_count"] == 0


def test_a_run_on_an_empty_queue_succeeds_and_counts_nothing(pipeline: Pipeline) -> None:
    result = pipeline.run()
    assert result.success
    assert all(checks(result).values())
    found = metadata(result)
    assert [found[asset]["dagster/row_count"] for asset in CHAIN] == [0] * len(CHAIN)
    assert found["raw_sqs_messages"]["batches"] == 0
    assert pipeline.rows("SELECT count(*) FROM loginpipe.batches") == [(0,)]
    assert pipeline.rows("SELECT count(*) FROM user_logins") == [(0,)]


def test_a_queue_at_its_in_flight_limit_is_not_taken_for_a_drained_one(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    with at_the_wire(pipeline, monkeypatch) as wire:
        wire.on("GetQueueAttributes", depth(visible=1_000, in_flight=120_000))
        result = pipeline.run()
    assert result.success
    assert metadata(result)["raw_sqs_messages"]["in_flight_limit_reached"] is True
    assert any("in-flight limit reached: messages wait" in message for message in logged(pipeline, result))


def test_a_run_takes_batch_after_batch_until_the_queue_is_drained(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGINPIPE_BATCH_MESSAGES", "12")
    # Each batch takes two receives. It is given when it is full, however long they take.
    monkeypatch.setenv("LOGINPIPE_LINGER_SECONDS", "60")
    pipeline.send([*logins(35), "{}"])
    result = pipeline.run()
    assert result.success
    found = metadata(result)
    assert [found[asset]["dagster/row_count"] for asset in CHAIN] == [36, 35, 1, 35, 35]
    assert (found["raw_sqs_messages"]["batches"], found["user_logins_table"]["deleted"]) == (3, 36)
    assert checks(result)["counts_add_up"]
    assert pipeline.rows("SELECT count(*), count(DISTINCT user_id) FROM user_logins") == [(35, 35)]
    counts = """
        SELECT run_id::text, received, deleted, finished_at IS NOT NULL FROM loginpipe.batches ORDER BY recorded_at
    """
    assert pipeline.rows(counts) == [(result.run_id, 12, 12, True)] * 3
    assert pipeline.depth() == (0, 0)


def test_a_run_whose_time_is_up_leaves_the_rest_to_the_next_one(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGINPIPE_BATCH_MESSAGES", "1")
    monkeypatch.setenv("LOGINPIPE_RUN_SECONDS", "1")
    record = Recorder.record

    def slowly(recorder: Recorder, messages: Sequence[Message]) -> Iterator[Recorded]:
        time.sleep(0.4)
        yield from record(recorder, messages)

    monkeypatch.setattr(Recorder, "record", slowly)
    pipeline.send(logins(20))
    assert pipeline.run().success
    ((stored,),) = pipeline.rows("SELECT count(*) FROM user_logins")
    assert 1 <= stored <= 6
    assert pipeline.depth() == (20 - stored, 0), "at once, and not when their leases are over"


def test_a_run_that_fails_after_some_batches_reports_what_these_came_to(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = count(1)

    def record(connection: Connection, outcome: Outcome, **options: Any) -> BatchRecord:
        if next(batches) == 3:
            raise DatabaseError("no", "42501")
        return record_batch(connection, outcome, **options)

    monkeypatch.setattr("loginpipe.ingest.record.record_batch", record)
    pipeline.send(logins(20))
    result = take(pipeline, 4)
    assert cause_of_failure(result) == "DatabaseError: no"
    found = metadata(result)
    assert [found[asset]["dagster/row_count"] for asset in CHAIN] == [8, 8, 0, 8, 8]
    assert found["user_logins_table"]["deleted"] == 8
    assert pipeline.rows("SELECT count(*) FROM user_logins") == [(8,)]
    eventually(lambda: pipeline.depth() == (12, 0), "the rest back on the queue")


def test_progress_is_logged_now_and_then_and_not_for_each_batch(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.send(logins(6))
    result = take(pipeline, 2)
    assert not [line for line in logged(pipeline, result) if line.startswith("so far")]
    monkeypatch.setattr("loginpipe.defs.ingest.assets._PROGRESS_SECONDS", 0)
    pipeline.send([*logins(3), "{}"])
    result = take(pipeline, 2)
    assert [line for line in logged(pipeline, result) if "received" in line and "messages" in line] == [
        "so far: received 2 messages in 1 batches; inserted 2 logins, skipped 0 duplicates, rejected 0 messages",
        "so far: received 4 messages in 2 batches; inserted 3 logins, skipped 0 duplicates, rejected 1 messages",
        "finished: received 4 messages in 2 batches; inserted 3 logins, skipped 0 duplicates, rejected 1 messages",
    ]


def test_equal_devices_and_addresses_have_equal_tokens_in_every_run(pipeline: Pipeline) -> None:
    ingest(
        pipeline,
        login(user_id="a", ip="2001:db8::1", device_id="593-47-5928"),
        login(user_id="b", ip="2001:0DB8:0:0:0:0:0:1", device_id=" 593-47-5928\t"),
        login(user_id="c", ip="192.0.2.9", device_id="593-47-5929"),
    )
    ingest(
        pipeline,
        login(user_id="d", ip=" 2001:db8:0::0:1", device_id="593-47-5928"),
        login(user_id="e", ip="::ffff:192.0.2.9", device_id="593-47-5929"),
    )
    ips = dict(pipeline.rows("SELECT user_id, masked_ip FROM user_logins"))
    devices = dict(pipeline.rows("SELECT user_id, masked_device_id FROM user_logins"))
    assert ips["a"] == ips["b"] == ips["d"] != ips["c"] == ips["e"]
    assert devices["a"] == devices["b"] == devices["d"] != devices["c"] == devices["e"]


def test_two_equal_logins_are_two_rows(pipeline: Pipeline) -> None:
    ingest(pipeline, login(), login())
    assert pipeline.rows("SELECT count(*) FROM user_logins") == [(2,)]


def test_what_was_sealed_opens_with_the_private_key_to_the_canonical_values(
    pipeline: Pipeline, key_files: KeyFiles
) -> None:
    originals = {
        "v4": ("199.172.111.135", "593-47-5928"),
        "v6": ("2001:DB8:0:0::1", " e\u0301tage \n"),
        "mapped": ("::ffff:192.0.2.9", "x" * 256),
    }
    ingest(pipeline, *(login(user_id=user, ip=ip, device_id=device) for user, (ip, device) in originals.items()))
    opened = Custodian(pipeline, key_files).values()
    found = {
        user: (opened[masked_ip].decode(), opened[masked_device_id].decode())
        for user, masked_ip, masked_device_id in pipeline.rows(
            "SELECT user_id, masked_ip, masked_device_id FROM user_logins"
        )
    }
    assert found == {
        "v4": ("199.172.111.135", "593-47-5928"),
        "v6": (str(ip_address("2001:db8::1")), "\u00e9tage"),
        "mapped": ("192.0.2.9", "x" * 256),
    }
    assert len(opened) == 6


def test_what_the_vault_knows_is_not_sealed_again(pipeline: Pipeline) -> None:
    ingest(pipeline, login(ip="192.0.2.1", device_id="old"))
    before = tables(pipeline)
    result = ingest(pipeline, login(ip="192.0.2.1", device_id="new"))
    after = tables(pipeline)
    assert metadata(result)["masked_logins"]["newly_sealed"] == 1
    assert set(before["vault.sealed_values"]) < set(after["vault.sealed_values"])
    assert len(after["vault.sealed_values"]) == 3
    assert len(after["vault.data_keys"]) == len(before["vault.data_keys"]) + 1


def test_a_value_that_comes_twice_in_a_batch_is_sealed_once(pipeline: Pipeline) -> None:
    result = ingest(pipeline, *(login(user_id=f"user-{i}") for i in range(3)))
    assert metadata(result)["masked_logins"]["newly_sealed"] == 2
    assert pipeline.rows("SELECT count(*) FROM vault.sealed_values") == [(2,)]


def test_with_sealing_off_there_are_tokens_only_and_a_warning(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGINPIPE_SEAL_KEY", "off")
    result = ingest(pipeline, *logins(2), "{}")
    assert pipeline.rows("SELECT count(*) FROM user_logins WHERE masked_ip LIKE 'ip.v1.%%'") == [(2,)]
    assert pipeline.rows("SELECT count(sealed_body), count(*) FROM loginpipe.rejected_messages") == [(0, 1)]
    assert pipeline.rows("SELECT reasons[1] FROM loginpipe.rejected_messages") == [("missing",)]
    assert tables(pipeline)["vault.sealed_values"] == tables(pipeline)["vault.data_keys"] == []
    assert any("LOGINPIPE_SEAL_KEY is off" in message for message in logged(pipeline, result))


def test_the_record_of_a_batch_says_what_came_of_its_messages(pipeline: Pipeline) -> None:
    result = ingest(pipeline, *logins(3), "{}", "nonsense")
    counts = """
        SELECT run_id::text, queue, received, accepted, rejected, inserted, duplicates, deleted, delete_failures,
            leases_lost, (SELECT sum(rows) FROM unnest(rows_by_day) AS rows), started_at <= recorded_at,
            recorded_at <= finished_at, oldest_sent_at <= newest_sent_at
        FROM loginpipe.batches
    """
    assert pipeline.rows(counts) == [(result.run_id, pipeline.queue.name, 5, 3, 2, 3, 0, 5, 0, 0, 3, True, True, True)]
