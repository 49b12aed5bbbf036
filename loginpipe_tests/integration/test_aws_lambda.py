"""AWS Lambda with the real runtime interface client: calls are killed, cut short and repeated; the counts add up."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import md5
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4
from zipfile import ZipFile

import boto3
import dagster as dg
import psycopg2
import pytest

from loginpipe.common import secrets
from loginpipe.common.errors import (
    BrakeError,
    DatabaseError,
    LoginpipeError,
    QueueError,
    SchemaError,
    TokenKeyMismatchError,
)
from loginpipe.common.logs import JsonLines
from loginpipe.common.settings import load_settings
from loginpipe.definitions import build_definitions
from loginpipe.defs.ingest import lambda_batches
from loginpipe.defs.monitoring import dagster_state
from loginpipe.ingest import aws_lambda
from loginpipe.ingest.aws_lambda import Function
from loginpipe.masking.key_files import generate_token_keys, rotate_token_keys
from loginpipe.monitoring.alert_rules import Limits, conditions
from loginpipe.monitoring.doctor import examine
from loginpipe.monitoring.metrics import registry
from loginpipe.monitoring.reports import History, QueueSeen, Seen, evaluate, longest_wait
from loginpipe.postgres.batches import recent_batches
from loginpipe.postgres.connections import connect
from loginpipe.postgres.ledger import read_ledger_days
from loginpipe.postgres.migrate import HEAD
from loginpipe.sqs.client import Depth
from loginpipe.sqs.deliveries import replay_attributes, replay_id
from loginpipe_tests.canary import BAD, GOOD, MARKERS, everything_an_error_shows, found
from loginpipe_tests.conftest import OWNER, KeyFiles, Pipeline
from loginpipe_tests.crash.logins import logins
from loginpipe_tests.crash.place import VISIBILITY_SECONDS, FastPlace, fast_place
from loginpipe_tests.crash.points import Point
from loginpipe_tests.crash.reconciliation import Balance, balance, settled
from loginpipe_tests.lambda_service import (
    Environment,
    EventSourceMapping,
    Reply,
    can_be_read_only,
    cold,
    environment,
    not_installed,
    record,
)
from loginpipe_tests.sqs_endpoint import Endpoint
from loginpipe_tests.wire import SENT_MS, SENT_ON, eventually, login, sns_envelope, tables

pytest.importorskip("awslambdaric", reason="the runtime interface client is made for Linux alone")

COUNTS = "SELECT received, inserted, rejected, duplicates FROM loginpipe.batches ORDER BY recorded_at"


@dataclass
class Call:
    """Lambda's context of a call."""

    seconds: float = 60
    aws_request_id: str = "5e0a7b7c-0000-4000-8000-000000000001"

    def get_remaining_time_in_millis(self) -> int:
        return int(self.seconds * 1000)


@pytest.fixture
def place(endpoint: Endpoint, database_url: str, pipeline_url: str, key_files: KeyFiles, tmp_path: Path) -> FastPlace:
    """Return a queue and a database, which the function uses as the pipeline's role."""
    place = fast_place(endpoint, database_url, key_files, tmp_path)
    place.environment["LOGINPIPE_DATABASE_URL"] = pipeline_url
    return place


def mapping(place: FastPlace, batch_messages: int = 100) -> EventSourceMapping:
    return EventSourceMapping(place.queue, batch_messages)


@contextmanager
def environments(place: FastPlace, number: int, stop_at: Point | None = None) -> Iterator[list[Environment]]:
    """Yield execution environments that have started."""
    if not number:
        yield []
        return
    with environment(partial(place.start_lambda, stop_at=stop_at)) as first, environments(place, number - 1) as others:
        yield [first, *others]


def ids(event: Mapping[str, Any]) -> list[str]:
    return [each["messageId"] for each in event["Records"]]


# --- as Lambda runs it ------------------------------------------------------------------------------------------------


def test_a_hundred_logins_become_a_hundred_rows_and_no_more_when_delivered_again_where_dagster_is_not_installed(
    place: FastPlace,
) -> None:
    place.send(logins(100, bad=7))
    source = mapping(place, 200)
    event = source.receive()
    assert event is not None
    assert {"dagster", "dagster_shared", "dagster_postgres", "dagster_webserver"} <= set(not_installed())
    # Read-only as in Lambda, if the test has the rights for it.
    with environment(cold(place, read_only=can_be_read_only())) as function:
        for _ in range(2):
            reply = function.invoke(event)
            assert reply.failed == []
        source.settle(event, reply)
        lines = function.lines()
    assert place.rows(COUNTS) == [(107, 100, 7, 0), (107, 0, 0, 107)]
    assert settled(place) == Balance(100, 7, 0)
    assert [line["level"] for line in lines] == ["info", "info"], lines
    counts = ("received", "accepted", "rejected", "inserted", "duplicates", "damaged", "returned", "batches")
    assert [tuple(line[name] for name in counts) for line in lines] == [
        (107, 100, 7, 100, 0, 0, 0, 1), (107, 100, 0, 0, 107, 0, 0, 1),
    ]  # fmt: skip
    assert sum(lines[0]["reasons"].values()) >= 7
    assert {line["queue"] for line in lines} == {place.queue.name}
    assert len({line["request_id"] for line in lines}) == 2


def test_the_commands_that_need_no_dagster_work_where_it_is_not_installed(place: FastPlace) -> None:
    command = (
        f"import sys; sys.modules.update(dict.fromkeys({not_installed()})); from loginpipe.cli import main; main()"
    )

    def loginpipe(*arguments: str) -> list[Any]:
        done = subprocess.run(
            [sys.executable, "-c", command, *arguments, "--json"],
            env=os.environ | place.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not done.stderr, done.stderr
        found: list[Any] = json.loads(done.stdout)
        return found

    assert [line for line in loginpipe("doctor") if "Dagster" in line["what"]] == []
    assert loginpipe("rejects", "list") == []


@pytest.mark.parametrize("point", [Point.PROCESSED, Point.COPIED, Point.WRITTEN, Point.RECORDED])
def test_after_a_kill_at_a_point_of_a_batch_its_messages_come_again_and_end_in_one_place(
    place: FastPlace, point: Point
) -> None:
    place.send(logins(60, bad=5))
    source = mapping(place)
    with environments(place, 1, point) as (killed,):
        event = source.receive()
        assert event is not None
        reply = killed.invoke(event)
        assert reply == Reply()
        source.settle(event, reply)
    before = balance(place)
    assert before.rows + before.rejects == (65 if point is Point.RECORDED else 0)
    assert before.queued + before.recorded_and_queued == 65
    place.endpoint.advance(VISIBILITY_SECONDS + 1)
    with environments(place, 1) as (function,):
        source.drain(function)
    assert settled(place) == Balance(60, 5, 0)


def test_a_batch_that_cannot_be_recorded_in_time_is_returned_whole_and_recorded_when_it_comes_again(
    place: FastPlace,
) -> None:
    place.send(logins(20, bad=2))
    source = mapping(place)
    event = source.receive()
    assert event is not None
    with environments(place, 1) as (function,):
        with closing(psycopg2.connect(place.database_url)) as other, other.cursor() as cursor:
            cursor.execute("LOCK TABLE user_logins IN ACCESS EXCLUSIVE MODE")
            reply = function.invoke(event, seconds=2.5)
            assert sorted(reply.failed) == sorted(ids(event))
        source.settle(event, reply)
        assert balance(place) == Balance(0, 0, 22)
        (line,) = function.lines()
        assert (line["level"], line["returned"], line["batches"]) == ("warning", 22, 0)
        place.endpoint.advance(VISIBILITY_SECONDS + 1)
        source.drain(function)
    assert settled(place) == Balance(20, 2, 0)


def test_two_environments_that_get_the_same_messages_at_once_record_each_once(place: FastPlace) -> None:
    place.send(logins(150, bad=10))
    source = mapping(place, 160)
    event = source.receive()
    assert event is not None
    with environments(place, 2) as pair, ThreadPoolExecutor(2) as pool:
        for reply in pool.map(lambda function: function.invoke(event), pair):
            assert reply.failed == []
            source.settle(event, reply)
    statement = "SELECT sum(received), sum(inserted), sum(rejected), sum(duplicates) FROM loginpipe.batches"
    assert place.rows(statement) == [(320, 150, 10, 160)]
    assert settled(place) == Balance(150, 10, 0)


def test_four_environments_empty_a_queue_at_once_and_each_message_ends_in_one_place(place: FastPlace) -> None:
    place.send(logins(240, bad=20))
    with environments(place, 4) as four, ThreadPoolExecutor(4) as pool:
        # Each has its own client, because a mapping also polls with several pollers.
        list(pool.map(lambda function: mapping(place, 30).drain(function), four))
        assert all(function.lines() for function in four)
    assert place.rows("SELECT sum(inserted), sum(rejected), sum(duplicates) FROM loginpipe.batches") == [(240, 20, 0)]
    assert settled(place) == Balance(240, 20, 0)


def test_a_dagster_run_and_lambda_on_one_queue_record_each_message_once_and_a_switch_loses_none(
    place: FastPlace,
) -> None:
    place.send(logins(140, bad=20))
    source = mapping(place, 40)
    with environments(place, 1) as (function,):
        assert source.poll(function) == 40
        held = source.receive()
        assert held is not None

        def meanwhile() -> None:
            # All messages in flight become visible again, and Lambda receives them.
            place.endpoint.advance(VISIBILITY_SECONDS + 1)
            assert mapping(place, 200).poll(function) > 40

        # Lambda records the second batch of the run first.
        assert place.run(Point.RECEIVED, meanwhile, batch=2, receives=False, batch_messages=40).success
        # Others have recorded this batch of Lambda in the meantime.
        source.settle(held, function.invoke(held))
        place.endpoint.advance(VISIBILITY_SECONDS + 1)
        place.send(logins(30))
        source.drain(function)
    of_both = (
        "SELECT run_id IS NULL, sum(inserted) > 0, sum(duplicates) > 0 FROM loginpipe.batches GROUP BY 1 ORDER BY 1"
    )
    assert place.rows(of_both) == [(False, True, True), (True, True, True)]
    assert settled(place) == Balance(170, 20, 0)


def test_ministacks_own_lambda_is_called_by_its_event_source_mapping_until_the_queue_is_empty(
    pipeline: Pipeline,
) -> None:
    client, name = boto3.client("lambda"), f"loginpipe-{uuid4().hex}"
    package = BytesIO()
    with ZipFile(package, "w") as archive:
        archive.writestr("main.py", "from loginpipe.ingest.aws_lambda import handler\n")
    arn = pipeline.queue.client.get_queue_attributes(QueueUrl=pipeline.queue.url, AttributeNames=["QueueArn"])
    client.create_function(
        FunctionName=name,
        Runtime="python3.11",
        Handler="main.handler",
        Role="arn:aws:iam::000000000000:role/loginpipe",
        Code={"ZipFile": package.getvalue()},
        Timeout=60,
        Environment={"Variables": {n: value for n, value in os.environ.items() if n.startswith("LOGINPIPE_")}},
    )
    source = client.create_event_source_mapping(
        EventSourceArn=arn["Attributes"]["QueueArn"],
        FunctionName=name,
        BatchSize=50,
        MaximumBatchingWindowInSeconds=1,
        FunctionResponseTypes=["ReportBatchItemFailures"],
    )
    try:
        pipeline.send([*(login(user_id=f"user-{number}") for number in range(60)), "no JSON"])
        eventually(lambda: pipeline.depth() == (0, 0), seconds=180, what="an empty queue")
    finally:
        client.delete_event_source_mapping(UUID=source["UUID"])
        client.delete_function(FunctionName=name)
    statement = "SELECT sum(inserted), sum(rejected), bool_and(run_id IS NULL) FROM loginpipe.batches"
    assert pipeline.rows(statement) == [(60, 1, True)]


# --- how a call handles its event -------------------------------------------------------------------------------------


@pytest.fixture
def function(place: FastPlace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Function]:
    """Yield the function as in an environment that has just started."""
    for name, value in place.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(secrets, "_kept", {})
    function = Function(load_settings())
    yield function
    function.close()


def sent(body: str, *, damaged: bool = False, sent_ms: int = SENT_MS, **attributes: Any) -> dict[str, Any]:
    """Return a record of an event, for a message with this sent time."""
    message = {
        "MessageId": str(uuid4()),
        "ReceiptHandle": "handle",
        "Body": body,
        "MD5OfBody": md5((body + "x" * damaged).encode(), usedforsecurity=False).hexdigest(),
        "Attributes": {"SentTimestamp": str(sent_ms), "ApproximateReceiveCount": "1"},
        "MessageAttributes": {name.replace("__", "."): value for name, value in attributes.items()},
    }
    return record(message, "login-queue")


def string(value: str) -> dict[str, str]:
    return {"DataType": "String", "StringValue": value}


def handled(function: Function, *records: dict[str, Any], seconds: float = 60) -> list[str]:
    """Make a call; return the delivery ids that it reports as failed."""
    return Reply(function.handle({"Records": list(records)}, Call(seconds))).failed


def test_a_damaged_body_is_returned_alone_and_a_bad_one_is_done(place: FastPlace, function: Function) -> None:
    damaged = sent(login(user_id="damaged"), damaged=True)
    assert handled(function, sent(login()), damaged, sent("no JSON")) == [damaged["messageId"]]
    assert place.rows(COUNTS) == [(2, 1, 1, 0)]
    assert place.rows("SELECT reasons FROM loginpipe.rejected_messages") == [(["not_json"],)]
    assert handled(function, damaged) == [damaged["messageId"]]
    assert handled(function, {**damaged, "md5OfBody": sent(damaged["body"])["md5OfBody"]}) == []
    assert place.rows(COUNTS) == [(2, 1, 1, 0), (1, 1, 0, 0)]


def test_messages_that_were_sent_again_keep_their_identity_and_every_delivery_of_them_is_done(
    place: FastPlace, function: Function
) -> None:
    first, rejected, day_ms = uuid4(), uuid4(), 86_400_000
    again = {"loginpipe__redrive_of": string(str(first)), "loginpipe__sent_ms": string(str(SENT_MS - day_ms))}
    replayed = {name.replace(".", "__"): value for name, value in replay_attributes(rejected, SENT_MS).items()}
    own = {"trace": string("1-2"), "blob": {"DataType": "Binary", "BinaryValue": b"x"}}
    twice = [sent(login(user_id="twice"), **again, **own) for _ in range(2)]
    too_old = sent(login(), **{**again, "loginpipe__sent_ms": string(str(SENT_MS - 400 * day_ms))})
    assert handled(function, *twice, sent(login(user_id="replayed"), **replayed), too_old) == []
    assert place.rows(COUNTS) == [(3, 2, 1, 0)]
    assert set(place.rows("SELECT message_id::text, sent_on::text FROM loginpipe.ingested_messages")) == {
        (str(first), str(SENT_ON - timedelta(days=1))),
        (str(replay_id(rejected)), str(SENT_ON)),
        (too_old["messageId"], str(SENT_ON)),
    }  # fmt: skip
    assert place.rows("SELECT message_id::text, reasons FROM loginpipe.rejected_messages") == [
        (too_old["messageId"], ["date_too_old"])
    ]


def test_a_row_that_the_table_refuses_is_rejected_alone(place: FastPlace, function: Function) -> None:
    place.rows("ALTER TABLE user_logins ADD CONSTRAINT no_poison CHECK (user_id <> 'poison')")
    records = [sent(login(user_id="poison" if place == 3 else f"user-{place}")) for place in range(8)]
    assert handled(function, *records) == []
    assert place.rows("SELECT message_id::text, reasons, fields FROM loginpipe.rejected_messages") == [
        (records[3]["messageId"], ["refused_by_database"], ["no_poison"])
    ]
    assert place.rows("SELECT sum(received), sum(inserted), sum(rejected) FROM loginpipe.batches") == [(8, 7, 1)]


def test_envelopes_unknown_fields_and_placeholders_are_treated_as_in_a_run(
    place: FastPlace, function: Function, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    body = sns_envelope(login(device_id="none at all", session="s-1", cart=[1]))
    assert handled(function, sent(body)) == []
    assert place.rows("SELECT reasons FROM loginpipe.rejected_messages") == [(["enveloped"],)]
    monkeypatch.setenv("LOGINPIPE_ENVELOPE", "sns")
    monkeypatch.setenv("LOGINPIPE_EXTRA_FIELDS", "session,email")
    monkeypatch.setenv("LOGINPIPE_PLACEHOLDERS", "none at all")
    caplog.set_level(logging.INFO, logger="loginpipe")
    with closing(Function(load_settings())) as other:
        assert handled(other, sent(body)) == []
    assert place.rows("SELECT extras, sealed_extras IS NOT NULL FROM loginpipe.login_extras") == [
        ({"session": "s-1"}, True)
    ]
    is_placeholder = "EXISTS (SELECT FROM loginpipe.placeholder_tokens WHERE token = masked_device_id)"
    assert place.rows(f"SELECT {is_placeholder} FROM user_logins") == [(True,)]
    *_, warning, counts = (json.loads(JsonLines().format(line)) for line in caplog.records)
    assert "stores email in clear" in warning["event"]
    assert counts["unknown_fields"] == {"session": 1, "cart": 1}


def test_while_an_environment_is_new_messages_that_are_nearly_all_bad_are_not_recorded_and_come_again(
    place: FastPlace, function: Function, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = [sent(login(user_id=None)) for _ in range(120)]
    good = [sent(login(user_id=f"user-{number}")) for number in range(50)]
    for _ in range(2):
        with pytest.raises(BrakeError, match=r"\(null \d+\), so none is recorded and all of them return to queue"):
            handled(function, *bad, good[0])
    assert place.rows(COUNTS) == []
    # Another environment is not affected, nor is one with the brake off.
    with closing(Function(load_settings())) as other:
        assert handled(other, *good) == handled(other, *bad[:100]) == []
    monkeypatch.setenv("LOGINPIPE_BRAKE", "off")
    with closing(Function(load_settings())) as other:
        assert handled(other, *bad) == []
    assert place.rows(COUNTS) == [(50, 50, 0, 0), (100, 0, 100, 0), (120, 0, 20, 100)]


def test_what_was_recorded_when_the_time_is_up_is_done_and_only_the_rest_is_returned(
    place: FastPlace, function: Function, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.rows("ALTER TABLE user_logins ADD CONSTRAINT no_poison CHECK (user_id <> 'poison')")
    records = [sent(login(user_id="poison" if number == 7 else f"user-{number}")) for number in range(8)]
    # The keys are loaded and the connection is open before the time counts.
    assert handled(function, sent(login(user_id="before"))) == []
    with closing(psycopg2.connect(place.database_url)) as other, other.cursor() as cursor:
        add = aws_lambda.RunTotals.add

        def locked_from_now_on(*arguments: Any) -> None:
            add(*arguments)
            cursor.execute("LOCK TABLE user_logins IN ACCESS EXCLUSIVE MODE")

        with monkeypatch.context() as patched:
            patched.setattr(aws_lambda.RunTotals, "add", locked_from_now_on)
            failed = handled(function, *records, seconds=4)
    assert failed == ids({"Records": records[4:]})
    assert place.rows(COUNTS) == [(1, 1, 0, 0), (4, 4, 0, 0)]
    assert handled(function, *records[4:]) == []
    assert place.rows("SELECT sum(inserted), sum(rejected), sum(duplicates) FROM loginpipe.batches") == [(8, 1, 0)]


def test_without_time_nothing_begins_and_each_message_is_reported_by_the_id_of_its_delivery(
    place: FastPlace, function: Function
) -> None:
    redriven = sent(login(), loginpipe__redrive_of=string(str(uuid4())), loginpipe__sent_ms=string(str(SENT_MS)))
    records = [sent(login()), sent("no JSON"), redriven]
    assert handled(function, *records, seconds=0.5) == ids({"Records": records})
    assert place.rows(COUNTS) == []
    assert handled(function, *records) == []


NO_EVENT = "the event is not one that Lambda makes of SQS messages: map the queue to the function as its event source"


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"Records": []},
        {"Records": "DEV-CLEAR-5171"},
        {"Records": [{**sent(login()), "messageId": ["DEV-CLEAR-5171"]}, {"body": "DEV-CLEAR-5171"}]},
        {"Records": [{**sent(login()), "attributes": {"SentTimestamp": "DEV-CLEAR-5171"}}]},
        {"Records": [sent(login()), {**sent(login()), "eventSourceARN": "arn:aws:sqs:us-east-1:000000000000:other"}]},
        {"Records": [{"EventSource": "aws:sns", "Sns": {"Message": "DEV-CLEAR-5171"}}]},
    ],
    ids=["empty", "no records", "text", "a field missing", "no time", "two queues", "SNS"],
)
def test_an_event_of_something_else_is_refused_and_not_quoted(function: Function, event: dict[str, Any]) -> None:
    with pytest.raises(QueueError) as caught:
        function.handle(event, Call())
    assert str(caught.value) == NO_EVENT
    assert "CLEAR" not in everything_an_error_shows(caught.value)


# --- what stays from call to call -------------------------------------------------------------------------------------


def pid(place: FastPlace) -> int:
    """Return the process id of the backend of the function's connection."""
    found: list[tuple[Any, ...]] = []

    def one() -> bool:
        # By name: a worker of autovacuum may be in the database too.
        found[:] = place.rows(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'loginpipe'"
        )
        return len(found) == 1

    # The backend of a connection that the function has closed ends a little later.
    eventually(one, "one connection of the function", seconds=60)
    return int(found[0][0])


def test_keys_and_connection_stay_and_a_broken_connection_is_replaced_within_the_call(
    place: FastPlace, function: Function, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = []
    load = aws_lambda.load_masking
    monkeypatch.setattr(aws_lambda, "load_masking", lambda settings: loads.append(1) or load(settings))
    assert handled(function, sent(login())) == []
    first = pid(place)
    assert handled(function, sent(login())) == []
    assert (pid(place), len(loads)) == (first, 1)
    place.rows("SELECT pg_terminate_backend(%s, 5000)", first)
    assert handled(function, sent(login())) == []
    assert pid(place) != first
    assert len(loads) == 1
    assert place.rows(COUNTS) == [(1, 1, 0, 0)] * 3


def test_a_failure_of_the_database_is_raised_and_the_next_call_starts_over(
    place: FastPlace, function: Function
) -> None:
    message = sent(login())
    assert handled(function, sent(login())) == []
    first = pid(place)
    place.rows("ALTER TABLE vault.sealed_values RENAME TO away")
    with pytest.raises(DatabaseError, match=r"UndefinedTable \[42P01\]"):
        handled(function, message)
    place.rows("ALTER TABLE vault.away RENAME TO sealed_values")
    assert handled(function, message) == []
    assert pid(place) != first
    assert place.rows(COUNTS) == [(1, 1, 0, 0)] * 2


def test_nothing_is_recorded_where_the_database_is_of_another_revision_or_of_other_token_keys(
    place: FastPlace, function: Function, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.rows("UPDATE loginpipe.alembic_version SET version_num = '0000'")
    with pytest.raises(SchemaError, match=f"needs {HEAD}"):
        handled(function, sent(login()))
    place.rows("UPDATE loginpipe.alembic_version SET version_num = %s", HEAD)
    assert handled(function, sent(login())) == []
    generate_token_keys(tmp_path / "others.json", development=True)
    monkeypatch.setenv("LOGINPIPE_TOKEN_KEYS", f"file:{tmp_path / 'others.json'}")
    with closing(Function(load_settings())) as other, pytest.raises(TokenKeyMismatchError):
        handled(other, sent(login()))
    assert place.rows(COUNTS) == [(1, 1, 0, 0)]


def test_a_rotated_token_key_is_in_use_once_the_keys_are_due(
    place: FastPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = tmp_path / "token_keys.json"
    generate_token_keys(keys, development=True)
    for name, value in {**place.environment, "LOGINPIPE_TOKEN_KEYS": f"file:{keys}"}.items():
        monkeypatch.setenv(name, value)
    with closing(Function(load_settings())) as function:
        assert handled(function, sent(login())) == []
        rotate_token_keys(keys)
        assert handled(function, sent(login())) == []
        monkeypatch.setattr(aws_lambda, "_KEYS_KEPT_SECONDS", 0)
        assert handled(function, sent(login())) == []
    assert [version for (version,) in place.rows("SELECT substr(masked_ip, 4, 2) FROM user_logins ORDER BY 1")] == [
        "v1", "v1", "v2",
    ]  # fmt: skip


def test_a_changed_secret_is_looked_up_when_the_connection_breaks(
    place: FastPlace, owner_url: str, pipeline_url: str, aws: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager, name = boto3.session.Session().client("secretsmanager"), f"loginpipe-{uuid4().hex}"
    manager.create_secret(Name=name, SecretString=pipeline_url)
    kept = {key: value for key, value in place.environment.items() if not key.startswith("AWS_")}
    for variable, value in {**kept, "LOGINPIPE_DATABASE_URL": f"secretsmanager:{name}"}.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(secrets, "_kept", {})
    with closing(Function(load_settings())) as function:
        assert handled(function, sent(login())) == []
        manager.put_secret_value(SecretId=name, SecretString=owner_url)
        place.rows("SELECT pg_terminate_backend(%s, 5000)", pid(place))
        assert handled(function, sent(login())) == []
        assert place.rows("SELECT usename FROM pg_stat_activity WHERE pid = %s", pid(place)) == [(OWNER,)]


# --- what other parts know of it --------------------------------------------------------------------------------------


def test_nothing_clear_is_logged_returned_or_raised(
    place: FastPlace, function: Function, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="loginpipe")
    records = [sent(body) for body in (*GOOD, *BAD)]
    shown = [repr(function.handle({"Records": [*records, sent(GOOD[0], damaged=True)]}, Call()))]

    def broken(messages: Sequence[Any], *_: Any, **__: Any) -> Any:
        raise ValueError(f"cannot read {messages[0].body}")

    def fails(error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message) as caught:
            function.handle({"Records": [sent(body) for body in GOOD]}, Call())
        shown.append(everything_an_error_shows(caught.value))

    with monkeypatch.context() as patched:
        patched.setattr("loginpipe.ingest.record.process_batch", broken)
        fails(LoginpipeError, r"^the batch was not recorded: ValueError in broken, test_aws_lambda.py line \d+; its ")
    place.rows("ALTER TABLE vault.sealed_values ADD CONSTRAINT refuses CHECK (false) NOT VALID")
    place.rows("TRUNCATE vault.sealed_values CASCADE")
    fails(DatabaseError, r"CheckViolation \[23514\]")
    lines = [JsonLines().format(line) for line in caplog.records]
    assert any("reasons" in json.loads(line) for line in lines)
    haystacks = {name: "\n".join(rows) for name, rows in tables(place).items()}
    haystacks |= {"shown": "\n".join(shown), "lines": "\n".join(lines), "text": caplog.text}
    assert found(haystacks, MARKERS) == []


METRICS = (
    "loginpipe_batches_total",
    "loginpipe_messages_received_total",
    "loginpipe_messages_inserted_total",
    "loginpipe_messages_rejected_total",
    "loginpipe_last_batch_finished_timestamp_seconds",
)


def test_freshness_alerts_metrics_and_reconciliation_know_batches_without_a_run(
    place: FastPlace, function: Function
) -> None:
    place.send([*logins(20, bad=5)])
    event = mapping(place).receive()
    assert event is not None
    assert Reply(function.handle(event, Call())).failed == []
    settings, now, today = load_settings(), datetime.now(UTC), datetime.now(UTC).date()
    with closing(connect(place.database_url)) as connection:
        recent = recent_batches(connection, place.queue.name, now)
        (day,) = read_ledger_days(connection, today, today) or ()
    assert recent.last_finished is not None
    assert (recent.received, recent.rejected) == (25, 5)
    assert (day.agrees, day.rows, day.rejected) == (True, 20, 5)
    # As long as batches are recorded, a queue that is never empty is not stuck.
    depth, long_ago = Depth(5, 5, 0), now - 2 * longest_wait(settings)
    fresh = evaluate(
        depth, last_finished=recent.last_finished, waiting_since=long_ago, now=now, max_wait=longest_wait(settings)
    )
    assert fresh.state == "working"
    found = conditions(Seen(QueueSeen(depth, None), recent, fresh, History(), {}), Limits(0.05, 900))
    assert {name for name, says in found.items() if says} == {"reject-rate"}
    samples = {
        (sample.name, sample.labels.get("queue")): sample.value
        for family in registry(settings, place.database_url).collect()
        for sample in family.samples
    }
    of_queue = {name: samples[name, place.queue.name] for name in METRICS}
    assert of_queue.pop("loginpipe_last_batch_finished_timestamp_seconds") == recent.last_finished.timestamp()
    assert list(of_queue.values()) == [1, 25, 20, 5]


def test_dagster_gets_a_materialization_an_asset_for_what_lambda_recorded_and_doctor_names_it(
    place: FastPlace, function: Function, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lambda_batches, "_SETTLED_SECONDS", 0)
    monkeypatch.setenv("LOGINPIPE_CONSUMER", "lambda")
    place.send(logins(10))
    assert place.run().success
    assert doctor_says("AWS Lambda").startswith("no batch in the last 24 hours")
    cursor, nothing = tick(None)
    assert nothing == {}
    place.send(logins(3, bad=2))
    event = mapping(place).receive()
    assert event is not None
    for _ in range(2):
        assert Reply(function.handle(event, Call())).failed == []
    with monkeypatch.context() as unsettled:
        unsettled.setattr(lambda_batches, "_SETTLED_SECONDS", 3600)
        assert tick(cursor)[1] == {}, "a batch with an earlier time may be committed yet"
    cursor, found = tick(cursor)
    assert {name: metadata["dagster/row_count"].value for name, metadata in found.items()} == {
        "raw_sqs_messages": 10,
        "validated_logins": 6,
        "rejected_logins": 2,
        "masked_logins": 6,
        "user_logins_table": 3,
    }
    assert {metadata["batches"].value for metadata in found.values()} == {2}
    assert sum(found["rejected_logins"]["reasons"].value.values()) >= 2
    assert found["user_logins_table"]["duplicates"].value == 5
    assert str(datetime.now(UTC).date()) in str(found["user_logins_table"]["rows_by_day"].value)
    _, nothing = tick(cursor)
    assert nothing == {}
    assert doctor_says("AWS Lambda").startswith("2 batches in the last 24 hours, the newest recorded at ")
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", "postgresql+psycopg2:///unused")
    assert dagster_state.automation(load_settings()) == "nothing in Dagster: LOGINPIPE_CONSUMER is lambda"


def doctor_says(what: str) -> str:
    (found,) = [finding for finding in examine(load_settings(), {}) if finding.what == what]
    assert found.ok
    return found.message


def tick(cursor: str | None) -> tuple[str | None, dict[str, Mapping[str, Any]]]:
    """Evaluate the sensor; return its next cursor, and the metadata of what it reports by asset."""
    definitions, sensor = build_definitions(), lambda_batches.lambda_batches_sensor
    resources = {key: (definitions.resources or {})[key] for key in sensor.required_resource_keys}
    with (
        dg.DagsterInstance.ephemeral() as instance,
        dg.build_sensor_context(instance, definitions=definitions, resources=resources, cursor=cursor) as context,
    ):
        data = sensor.evaluate_tick(context)
    events = [event for event in data.asset_events if isinstance(event, dg.AssetMaterialization)]
    assert len(events) == len(data.asset_events)
    return data.cursor, {event.asset_key.to_user_string(): event.metadata for event in events}
