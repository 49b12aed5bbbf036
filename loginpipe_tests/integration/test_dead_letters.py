"""Dead letters moved back to the queue: none is lost or duplicated, also after an interruption at any point."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import boto3
import pytest
from botocore.config import Config
from prometheus_client import generate_latest

from loginpipe.common.errors import QueueError
from loginpipe.common.settings import load_settings
from loginpipe.local.environment import create_login_queue
from loginpipe.local.stack import LocalStack
from loginpipe.monitoring.doctor import Finding
from loginpipe.monitoring.metrics import registry
from loginpipe.monitoring.reports import read_memory
from loginpipe.postgres.connections import Connection, connect
from loginpipe.postgres.ledger import recorded
from loginpipe.sqs import dead_letters
from loginpipe.sqs.client import Queue, batched, open_queue, read_depth
from loginpipe.sqs.dead_letters import RedriveCounts, RedrivePolicy, read_dead_letters, redrive, redrive_policy
from loginpipe.sqs.deliveries import Identity, identity
from loginpipe_tests.commands import command_line, findings
from loginpipe_tests.conftest import Pipeline
from loginpipe_tests.daemon import Daemon
from loginpipe_tests.sqs_endpoint import Endpoint
from loginpipe_tests.wire import (
    Answer,
    Call,
    Forward,
    Tamper,
    Wire,
    answers,
    damaged_bodies,
    eventually,
    failed_entries,
    first,
    ingest,
    login,
    logins,
    not_allowed,
    refusal,
    success,
    take,
    users,
)


@pytest.fixture(autouse=True)
def _short_pauses_between_deletes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "_DELETE_PAUSES", (0.01, 0.01, 0.01))


@dataclass(frozen=True)
class Queues:
    """A queue and its dead-letter queue for a redrive, and the wire between."""

    queue: Queue
    dead: Queue
    wire: Wire

    def kill(self, *bodies: str, **attributes: Any) -> list[str]:
        """Send messages and receive them until they are dead letters; return their ids."""
        ids = []
        # One call takes ten messages, and one MiB of them.
        for chunk in batched(bodies) if sum(map(len, bodies)) < 1_000_000 else [[body] for body in bodies]:
            entries = [
                {"Id": str(place), "MessageBody": body, "MessageAttributes": attributes}
                for place, body in enumerate(chunk)
            ]
            sent = self.queue.client.send_message_batch(QueueUrl=self.queue.url, Entries=entries)  # type: ignore[arg-type]
            ids += [entry["MessageId"] for entry in sent["Successful"]]
        self.receive_too_often(len(bodies), times=1)
        return ids

    def receive_too_often(self, number: int, *, times: int) -> None:
        """Receive the visible messages ``times`` times, so that they become dead letters."""
        before = read_depth(self.dead).visible
        self._max_receives(times)
        eventually(lambda: self._received_again() and read_depth(self.dead).visible == before + number, "dead letters")
        # From now on, a message that is moved back may be received five times.
        self._max_receives(5)

    def _received_again(self) -> bool:
        self.queue.client.receive_message(QueueUrl=self.queue.url, MaxNumberOfMessages=10, VisibilityTimeout=0)
        return True

    def _max_receives(self, times: int) -> None:
        arn = self.dead.client.get_queue_attributes(QueueUrl=self.dead.url, AttributeNames=["QueueArn"])
        policy = {"deadLetterTargetArn": arn["Attributes"]["QueueArn"], "maxReceiveCount": str(times)}
        self.queue.client.set_queue_attributes(
            QueueUrl=self.queue.url, Attributes={"RedrivePolicy": json.dumps(policy)}
        )

    def redrive(self, known: Iterable[str] = (), **options: Any) -> RedriveCounts:
        """Redrive with a ledger that holds these ids."""
        options = {"recorded": lambda _: known} | options
        return redrive(self.queue, self.dead, **options)

    def on(self, queue: Queue, action: str, tamper: Tamper) -> None:
        """Tamper with the calls of one of the two queues."""

        def of_that_queue(call: Call, forward: Forward) -> Answer:
            return tamper(call, forward) if call.request["QueueUrl"] == queue.url else forward(call)

        self.wire.on(action, of_that_queue)


@pytest.fixture(scope="module")
def one_wire(stack: LocalStack) -> Iterator[tuple[Wire, Any]]:
    """Yield a wire for all tests, and a client that uses it, because making a client takes longer than most tests."""
    aws = stack.aws_environment
    with Wire(stack.endpoint_url) as wire:
        yield (
            wire,
            boto3.client(
                "sqs",
                endpoint_url=wire.url,
                region_name=aws["AWS_REGION"],
                aws_access_key_id=aws["AWS_ACCESS_KEY_ID"],
                aws_secret_access_key=aws["AWS_SECRET_ACCESS_KEY"],
                config=Config(retries={"mode": "standard", "total_max_attempts": 2}),
            ),
        )


@pytest.fixture
def queues(queue: Queue, one_wire: tuple[Wire, Any]) -> Iterator[Queues]:
    wire, client = one_wire
    over_it = replace(queue, client=client)
    policy = redrive_policy(over_it)
    assert policy is not None
    yield Queues(over_it, policy.dead_letters, wire)
    for action in {call.action for call in wire.calls}:
        wire.on(action, lambda call, forward: forward(call))
    wire.calls.clear()
    queue.client.delete_queue(QueueUrl=policy.dead_letters.url)


@pytest.fixture
def warehouse(database_url: str) -> Iterator[Connection]:
    connection = connect(database_url)
    yield connection
    connection.close()


def of_the_ledger(warehouse: Connection) -> Callable[[Iterable[Identity]], Iterable[str]]:
    """Return a function that looks up messages in the ledger of a real database."""
    return lambda messages: recorded(warehouse, [m.message_id for m in messages])


def waiting(queue: Queue) -> list[Any]:
    """Return all messages that the queue delivers now, each copy once."""
    found: dict[str, Any] = {}
    while answer := queue.client.receive_message(
        QueueUrl=queue.url,
        MaxNumberOfMessages=10,
        VisibilityTimeout=60,
        MessageSystemAttributeNames=["SentTimestamp", "ApproximateReceiveCount", "MessageGroupId"],
        MessageAttributeNames=["All"],
    ).get("Messages"):
        found |= {message["MessageId"]: message for message in answer}
    return list(found.values())


def identities(messages: Iterable[Any]) -> list[str]:
    return [identity(message).message_id for message in messages]


def depths(queues: Queues) -> tuple[int, int]:
    """Return the numbers of messages on the queue and on the dead-letter queue."""
    return read_depth(queues.queue).total, read_depth(queues.dead).total


# --- through the whole chain ------------------------------------------------------------------------------------------


def sent_ago(ago: timedelta) -> Tamper:
    """Return a tamper that makes dead letters older, because those of the endpoint have just been sent."""

    def tamper(call: Call, forward: Forward) -> Answer:
        content = forward(call).content
        for message in content.get("Messages", []):
            sent_ms = int(message["Attributes"]["SentTimestamp"]) - int(ago.total_seconds() * 1000)
            message["Attributes"]["SentTimestamp"] = str(sent_ms)
        return success(content)

    return tamper


def test_a_message_received_six_times_is_redriven_and_becomes_one_row_of_its_first_day(
    pipeline: Pipeline, queues: Queues, warehouse: Connection
) -> None:
    pipeline.send(logins(2))
    queues.receive_too_often(2, times=5)
    assert depths(queues) == (0, 2)
    queues.on(queues.dead, "ReceiveMessage", sent_ago(timedelta(days=9)))
    assert queues.redrive(recorded=of_the_ledger(warehouse)) == RedriveCounts(moved=2)
    assert depths(queues) == (2, 0)
    assert take(pipeline, 2).success
    first_day = datetime.now(UTC).date() - timedelta(days=9)
    rows = pipeline.rows("SELECT user_id, create_date FROM user_logins ORDER BY 1")
    assert [user for user, _ in rows] == ["user-0", "user-1"]
    # Midnight may pass during the test.
    assert {day for _, day in rows} <= {first_day, first_day - timedelta(days=1)}
    assert pipeline.rows("SELECT DISTINCT sent_on FROM loginpipe.ingested_messages") == [(rows[0][1],)]
    assert depths(queues) == (0, 0)


def back_at_once(call: Call, forward: Forward) -> Answer:
    """Make returned messages visible at once instead of after a pause."""
    entries = [{**entry, "VisibilityTimeout": 0} for entry in call.request["Entries"]]
    return forward(call.with_request({**call.request, "Entries": entries}))


def test_dead_letters_with_an_outcome_are_dropped_and_the_others_moved_and_ingested_once(
    pipeline: Pipeline, queues: Queues, warehouse: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as through:
        through.setenv("AWS_ENDPOINT_URL", queues.wire.url)
        queues.on(queues.queue, "DeleteMessageBatch", failed_entries("ReceiptHandleIsInvalid", sender_fault=True))
        queues.on(queues.queue, "ChangeMessageVisibilityBatch", back_at_once)
        ingest(pipeline, *logins(2), "{}")
    assert pipeline.depth() != (0, 0), "the deletes failed"
    before = pipeline.rows("SELECT * FROM loginpipe.ingested_messages ORDER BY message_id")
    queues.receive_too_often(3, times=1)
    queues.kill(login(user_id="never seen"), "[]")
    assert depths(queues) == (0, 5)

    assert queues.redrive(recorded=of_the_ledger(warehouse)) == RedriveCounts(dropped=3, moved=2)
    assert depths(queues) == (2, 0)
    assert pipeline.rows("SELECT * FROM loginpipe.ingested_messages ORDER BY message_id") == before
    assert take(pipeline, 2).success
    assert users(pipeline) == ["never seen", "user-0", "user-1"]
    assert pipeline.rows("SELECT count(*) FROM loginpipe.rejected_messages") == [(2,)]
    assert depths(queues) == (0, 0)


def begun_twice(queues: Queues, warehouse: Connection) -> None:
    """Let a redrive die between send and delete, and start it again before a run consumes the queue."""
    queues.on(queues.dead, "DeleteMessageBatch", lambda _call, _forward: refusal("AccessDenied", 403))
    queues.redrive(recorded=of_the_ledger(warehouse))
    assert depths(queues) == (3, 3), "sent and not deleted"
    queues.wire.on("DeleteMessageBatch", lambda call, forward: forward(call))
    eventually(lambda: read_depth(queues.dead).visible == 3, "dead letters returned")
    assert queues.redrive(recorded=of_the_ledger(warehouse)).moved == 3
    assert depths(queues) == (6, 0)


def test_a_redrive_begun_again_makes_copies_that_are_one_message_also_in_one_batch(
    pipeline: Pipeline, queues: Queues, warehouse: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = queues.kill(*logins(2), "{}")
    begun_twice(queues, warehouse)
    monkeypatch.setenv("LOGINPIPE_RECEIVERS", "1")
    assert take(pipeline, 6).success
    assert users(pipeline) == ["user-0", "user-1"]
    assert pipeline.rows("SELECT received, inserted, rejected, duplicates FROM loginpipe.batches") == [(3, 2, 1, 0)]
    known = [found for (found,) in pipeline.rows("SELECT message_id::text FROM loginpipe.ingested_messages")]
    assert sorted(known) == sorted(ids)
    assert depths(queues) == (0, 0), "both copies are deleted"


def test_a_redrive_begun_again_makes_copies_that_are_one_message_also_in_two_runs(
    pipeline: Pipeline, queues: Queues, warehouse: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    queues.kill(*logins(2), "{}")
    begun_twice(queues, warehouse)
    monkeypatch.setenv("LOGINPIPE_RECEIVERS", "1")
    assert take(pipeline, 3).success
    assert take(pipeline, 3).success
    assert users(pipeline) == ["user-0", "user-1"]
    counts = pipeline.rows("SELECT inserted, rejected, duplicates FROM loginpipe.batches ORDER BY recorded_at")
    assert counts == [(2, 1, 0), (0, 0, 3)]
    assert depths(queues) == (0, 0)


def test_a_redrive_begun_again_after_the_queue_was_worked_on_drops_what_has_its_outcome_now(
    pipeline: Pipeline, queues: Queues, warehouse: Connection
) -> None:
    queues.kill(*logins(2), "{}")
    queues.on(queues.dead, "DeleteMessageBatch", lambda _call, _forward: refusal("AccessDenied", 403))
    queues.redrive(recorded=of_the_ledger(warehouse))
    assert take(pipeline, 3).success
    queues.wire.on("DeleteMessageBatch", lambda call, forward: forward(call))
    eventually(lambda: read_depth(queues.dead).visible == 3, "dead letters returned")
    assert queues.redrive(recorded=of_the_ledger(warehouse)) == RedriveCounts(dropped=3)
    assert depths(queues) == (0, 0)
    assert users(pipeline) == ["user-0", "user-1"]


# --- what is moved ----------------------------------------------------------------------------------------------------


def test_more_than_a_batch_is_moved_and_each_once(queues: Queues) -> None:
    ids = queues.kill(*logins(23))
    looked_at: list[int] = []
    assert queues.redrive(progress=looked_at.append) == RedriveCounts(moved=23)
    assert looked_at == [10, 10, 3]
    found = waiting(queues.queue)
    assert Counter(identities(found)) == Counter(ids)
    assert {message["Body"] for message in found} == set(logins(23))
    assert {message["Attributes"]["ApproximateReceiveCount"] for message in found} == {"1"}, "they start again"
    assert depths(queues)[1] == 0


def test_an_empty_dead_letter_queue_is_done_with_at_once(queues: Queues) -> None:
    assert queues.redrive() == RedriveCounts()


def test_attributes_of_the_producer_come_along(queues: Queues) -> None:
    own = {
        "trace": {"DataType": "String", "StringValue": "Root=1-5759; é😀"},
        "attempt": {"DataType": "Number", "StringValue": "7"},
        "blob": {"DataType": "Binary.gzip", "BinaryValue": b"\x00\xff\x1f"},
    }
    (message_id,) = queues.kill(login(), **own)
    queues.redrive()
    (message,) = waiting(queues.queue)
    assert {name: value for name, value in message["MessageAttributes"].items() if name in own} == own
    assert identity(message).message_id == message_id


@pytest.mark.parametrize("body", ["é😀 \u2028\x85\t\n", "x" * 1_048_000, "\\\"'{}[]"], ids=["odd", "large", "quotes"])
def test_a_body_arrives_as_it_was(queues: Queues, body: str) -> None:
    queues.kill(body)
    assert queues.redrive().moved == 1
    assert [message["Body"] for message in waiting(queues.queue)] == [body]


def test_large_dead_letters_that_are_too_much_for_one_call_together_are_moved_all_the_same(queues: Queues) -> None:
    bodies = [str(number) * 400_000 for number in range(5)]
    queues.kill(*bodies)
    assert queues.redrive() == RedriveCounts(moved=5)
    assert sorted(message["Body"][0] for message in waiting(queues.queue)) == list("01234")
    assert depths(queues)[1] == 0


def test_two_copies_of_one_dead_letter_both_leave_the_dead_letter_queue(queues: Queues) -> None:
    """This happens after an interrupted redrive, if no run has succeeded since."""
    first_id = str(uuid4())
    for _ in range(2):
        attributes = {
            "loginpipe.redrive_of": {"DataType": "String", "StringValue": first_id},
            "loginpipe.sent_ms": {"DataType": "String", "StringValue": str(time.time_ns() // 1_000_000)},
        }
        queues.dead.client.send_message(
            QueueUrl=queues.dead.url,
            MessageBody=login(),
            MessageAttributes=attributes,  # type: ignore[arg-type]
        )
    queues.redrive()
    assert set(identities(waiting(queues.queue))) == {first_id}
    assert depths(queues)[1] == 0


def test_a_body_damaged_on_the_way_is_not_what_goes_back(queues: Queues) -> None:
    """On the queue it would have a new MD5, so that the damage could no longer be detected."""
    queues.kill(login(user_id="damaged"), login(user_id="whole"))
    queues.on(queues.dead, "ReceiveMessage", first(1, damaged_bodies(lambda message: "damaged" in message["Body"])))
    counts = queues.redrive()
    bodies = {message["Body"] for message in waiting(queues.queue) + waiting(queues.dead)}
    assert bodies == {login(user_id="damaged"), login(user_id="whole")}
    assert counts.moved + counts.left == 2


# --- what stays -------------------------------------------------------------------------------------------------------


def test_a_dry_run_counts_and_changes_nothing(queues: Queues) -> None:
    ids = queues.kill(*logins(13))
    queues.wire.calls.clear()
    counts = queues.redrive(known=ids[:4], dry_run=True)
    assert counts == RedriveCounts(dropped=4, moved=9)
    assert read_depth(queues.queue).total == 0
    assert read_depth(queues.dead).visible == 13, "they can be received at once"
    assert not queues.wire.asked("SendMessageBatch")
    assert not queues.wire.asked("DeleteMessageBatch")
    assert {message["MessageId"] for message in waiting(queues.dead)} == set(ids)


def test_a_dry_run_with_a_rate_limit_does_not_wait(queues: Queues) -> None:
    queues.kill(*logins(3))
    began = time.monotonic()
    assert queues.redrive(dry_run=True, per_second=0.5).moved == 3
    assert time.monotonic() - began < 5


def test_what_the_filter_leaves_out_stays_and_can_be_received_at_once(queues: Queues) -> None:
    early = queues.kill(*logins(3))
    cut = time.time_ns() // 1_000_000 + 1
    eventually(lambda: time.time_ns() // 1_000_000 > cut, "the next millisecond")
    late = queues.kill(*logins(12))
    assert queues.redrive(wanted=lambda message: message.sent_ms < cut) == RedriveCounts(moved=3, left=12)
    assert read_depth(queues.dead).visible == 12
    assert sorted(identities(waiting(queues.queue))) == sorted(early)
    assert {message["MessageId"] for message in waiting(queues.dead)} == set(late)


def test_the_ledger_is_not_asked_about_what_the_filter_leaves_out(queues: Queues) -> None:
    ids = queues.kill(*logins(3))
    asked: list[Identity] = []

    def recorded(messages: Iterable[Identity]) -> list[str]:
        asked.extend(messages)
        return ids

    counts = queues.redrive(recorded=recorded, wanted=lambda message: message.message_id == ids[1])
    assert [message.message_id for message in asked] == [ids[1]]
    assert counts == RedriveCounts(dropped=1, left=2)


def test_no_more_than_the_limit_is_moved_in_a_second(queues: Queues) -> None:
    queues.kill(*logins(12))
    began = time.monotonic()
    at: list[float] = []
    counts = queues.redrive(per_second=20, progress=lambda _: at.append(time.monotonic() - began))
    assert counts.moved == 12
    assert at[1] >= 10 / 20, "the second batch comes no sooner than the first ten allow"


def test_without_a_limit_nothing_waits(queues: Queues) -> None:
    queues.kill(*logins(12))
    began = time.monotonic()
    assert queues.redrive().moved == 12
    assert time.monotonic() - began < 5


def test_what_the_queue_refuses_stays_and_the_others_are_moved(queues: Queues) -> None:
    queues.kill(*logins(11), "poison")
    refuse = failed_entries(
        "InvalidMessageContents", sender_fault=True, which=lambda entry: entry["MessageBody"] == "poison"
    )
    queues.on(queues.queue, "SendMessageBatch", refuse)
    assert queues.redrive() == RedriveCounts(moved=11, left=1, refused=Counter(InvalidMessageContents=1))
    assert [message["Body"] for message in waiting(queues.dead)] == ["poison"]
    assert len(waiting(queues.queue)) == 11


def test_a_single_dead_letter_that_the_queue_refuses_is_left_too(queues: Queues) -> None:
    queues.kill("poison")
    queues.on(queues.queue, "SendMessageBatch", failed_entries("InvalidMessageContents", sender_fault=True))
    assert queues.redrive() == RedriveCounts(left=1, refused=Counter(InvalidMessageContents=1))
    assert read_depth(queues.dead).visible == 1


def test_a_queue_that_takes_nothing_ends_the_redrive_in_one_line_and_everything_stays(queues: Queues) -> None:
    ids = queues.kill(*logins(12))
    queues.on(queues.queue, "SendMessageBatch", lambda _call, _forward: refusal("AccessDenied", 403))
    with pytest.raises(QueueError) as caught:
        queues.redrive()
    assert str(caught.value).startswith(f"queue '{queues.queue.name}' takes no messages (AccessDenied): they stay")
    assert "\n" not in str(caught.value)
    assert read_depth(queues.dead).visible == 12, "whoever begins again finds them"
    assert {message["MessageId"] for message in waiting(queues.dead)} == set(ids)


def test_what_could_not_be_deleted_counts_as_refused_and_neither_as_dropped_nor_as_moved(queues: Queues) -> None:
    ids = queues.kill(*logins(3))
    queues.on(queues.dead, "DeleteMessageBatch", failed_entries("ReceiptHandleIsInvalid", sender_fault=True))
    counts = queues.redrive(known=ids[:1])
    assert counts == RedriveCounts(left=3, refused=Counter(ReceiptHandleIsInvalid=3))
    assert read_depth(queues.dead).visible == 3


@pytest.mark.parametrize(
    "refuse",
    [failed_entries("InternalError", sender_fault=False), answers(refusal("RequestThrottled")), answers(success({}))],
    ids=["single entries", "the call", "nothing confirmed"],
)
def test_a_delete_that_is_refused_is_tried_again_until_it_succeeds(queues: Queues, refuse: Tamper) -> None:
    queues.kill(*logins(3))
    # More often than the client itself retries a call.
    queues.on(queues.dead, "DeleteMessageBatch", first(3, refuse))
    assert queues.redrive() == RedriveCounts(moved=3)
    assert depths(queues) == (3, 0)


def test_only_what_is_still_there_is_deleted_again(queues: Queues) -> None:
    ids = queues.kill(*logins(3))
    handles: list[str] = []

    def refuse_one(call: Call, forward: Forward) -> Answer:
        entries = call.request["Entries"]
        handles.extend(entry["ReceiptHandle"] for entry in entries)
        return failed_entries("InternalError", sender_fault=False, which=lambda e: e == entries[0])(call, forward)

    queues.on(queues.dead, "DeleteMessageBatch", first(2, refuse_one))
    assert queues.redrive(known=ids) == RedriveCounts(dropped=3)
    assert len(handles) == 3 + 1


def test_deletes_that_are_refused_altogether_end_the_redrive_before_it_sends_copies_of_everything(
    queues: Queues,
) -> None:
    queues.kill(*logins(23))
    queues.on(queues.dead, "DeleteMessageBatch", answers(refusal("AccessDenied", 403)))
    counts = queues.redrive()
    assert (counts.moved, counts.refused) == (0, Counter(AccessDenied=counts.left))
    assert depths(queues) == (counts.left, 23)
    assert counts.left <= 10


def test_a_rate_limit_counts_what_is_sent_also_where_nothing_is_deleted(queues: Queues) -> None:
    queues.kill(*logins(12))
    queues.on(queues.dead, "DeleteMessageBatch", failed_entries("ReceiptHandleIsInvalid", sender_fault=True))
    began = time.monotonic()
    assert queues.redrive(per_second=20).moved == 0
    assert time.monotonic() - began >= 12 / 20


# --- what has no room for our attributes ------------------------------------------------------------------------------


def string(value: str) -> dict[str, str]:
    return {"DataType": "String", "StringValue": value}


def padded(length: int, **fields: Any) -> str:
    """Return a good login of ``length`` bytes."""
    return login(**fields, padding="x" * (length - len(login(**fields, padding=""))))


def test_what_has_no_room_for_our_attributes_stays_with_a_code_and_holds_up_no_other(queues: Queues) -> None:
    queues.kill(padded(2**20, user_id="long"))
    queues.kill(login(user_id="decked out"), **{f"own{number}": string("é") for number in range(9)})
    queues.kill(*logins(12))
    counts = queues.redrive()
    assert counts == RedriveCounts(moved=12, left=2, refused=Counter(MessageTooLong=1, TooManyAttributes=1))
    assert {json.loads(message["Body"])["user_id"] for message in waiting(queues.dead)} == {"long", "decked out"}
    assert len(waiting(queues.queue)) == 12


@pytest.mark.parametrize(("spare", "moved"), [(0, 1), (-1, 0)], ids=["just fits", "a byte too much"])
def test_what_is_sent_again_is_measured_as_sqs_does_to_the_byte(queues: Queues, spare: int, moved: int) -> None:
    own = {"trace": string("é😀")}
    (message_id,) = queues.kill("x", **own)
    # SQS counts an attribute's name, type and value, in UTF-8.
    written = {**own, "loginpipe.redrive_of": string(message_id), "loginpipe.sent_ms": string("1" * 13)}
    attributes = sum(len(f"{name}String{value['StringValue']}".encode()) for name, value in written.items())
    assert queues.redrive().moved == 1
    waiting(queues.queue)
    queues.kill("x" * (2**20 - attributes - spare), **own)
    assert queues.redrive().moved == moved


def test_a_run_on_the_dead_letter_queue_takes_in_what_could_not_be_moved(
    pipeline: Pipeline, queues: Queues, warehouse: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As docs/operations.md advises. It keeps its own id, so that copies of it from elsewhere are the same message."""
    ids = queues.kill(padded(2**20, user_id="long"))
    assert queues.redrive(recorded=of_the_ledger(warehouse)).refused == Counter(MessageTooLong=1)
    monkeypatch.setenv("LOGINPIPE_QUEUE", queues.dead.name)
    assert take(pipeline, 1).success
    assert users(pipeline) == ["long"]
    assert pipeline.rows("SELECT message_id::text FROM loginpipe.ingested_messages") == [(i,) for i in ids]
    assert depths(queues) == (0, 0)


# --- a dead-letter queue that is shared -------------------------------------------------------------------------------


def kill_an_order(queues: Queues) -> None:
    """Put a dead letter of another queue into the same dead-letter queue."""
    client = queues.queue.client
    policy = client.get_queue_attributes(QueueUrl=queues.queue.url, AttributeNames=["RedrivePolicy"])["Attributes"]
    orders = client.create_queue(QueueName=f"orders-{uuid4().hex}", Attributes=policy)["QueueUrl"]  # type: ignore[arg-type]
    before = read_depth(queues.dead).total
    client.send_message(QueueUrl=orders, MessageBody='{"order": 17}')
    taken = {"QueueUrl": orders, "VisibilityTimeout": 0}
    eventually(
        lambda: bool(client.receive_message(**taken)) and read_depth(queues.dead).total == before + 1,  # type: ignore[arg-type]
        "a dead order",
    )
    client.delete_queue(QueueUrl=orders)


def test_dead_letters_of_another_queue_stay_where_they_are_and_are_counted(queues: Queues) -> None:
    ids = queues.kill(*logins(12))
    for _ in range(2):
        kill_an_order(queues)
    assert queues.redrive(known=ids[:1], dry_run=True) == RedriveCounts(dropped=1, moved=11, others=2)
    assert queues.redrive(known=ids[:1]) == RedriveCounts(dropped=1, moved=11, others=2)
    assert read_depth(queues.dead).visible == 2, "at once"
    assert [message["Body"] for message in waiting(queues.dead)] == ['{"order": 17}'] * 2
    assert sorted(identities(waiting(queues.queue))) == sorted(ids[1:])


def test_the_ledger_is_not_asked_about_messages_of_another_queue(queues: Queues) -> None:
    kill_an_order(queues)
    asked: list[Identity] = []
    assert queues.redrive(recorded=lambda messages: asked.extend(messages) or []) == RedriveCounts(others=1)
    assert not asked


def test_dead_letters_that_cannot_be_read_are_returned_at_once_and_none_is_moved(queues: Queues) -> None:
    queues.kill(*logins(3))
    queues.on(queues.dead, "ReceiveMessage", first(1, without_times))
    with pytest.raises(QueueError, match="delivers messages without their SentTimestamp"):
        queues.redrive()
    assert depths(queues) == (0, 3)
    assert read_depth(queues.dead).visible == 3


def without_times(call: Call, forward: Forward) -> Answer:
    content = forward(call).content
    for message in content.get("Messages", []):
        del message["Attributes"]
    return success(content)


@pytest.fixture
def shared(pipeline: Pipeline, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of the login queue, which shares its dead-letter queue with two others.

    Our endpoint knows which queues share one. The dead letters are two logins, an order, and a message that was sent
    there directly.
    """
    name = f"shared-{uuid4().hex}"
    client = endpoint.client
    dead = create_login_queue(client, name).replace(name, f"{name}-dlq")
    arn = client.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = {"RedrivePolicy": json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": "1"})}
    for queue, bodies in ((name, logins(2)), (f"{name}-orders", ['{"order": 17}']), (f"{name}-refunds", [])):
        url = client.create_queue(QueueName=queue, Attributes={} if queue == name else policy)["QueueUrl"]
        client.set_queue_attributes(QueueUrl=url, Attributes=policy)
        endpoint.send(queue, bodies)
        for _ in range(2):
            client.receive_message(QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=0)
    # From now on, a message that is moved back may be received again.
    policy = {"RedrivePolicy": json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": "5"})}
    client.set_queue_attributes(QueueUrl=client.get_queue_url(QueueName=name)["QueueUrl"], Attributes=policy)
    endpoint.send(f"{name}-dlq", ["by hand"])
    for variable, value in endpoint.aws_environment.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("LOGINPIPE_QUEUE", name)
    return name


def test_the_commands_say_whose_dead_letters_there_are_and_touch_ours_alone(
    shared: str, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loginpipe = command_line(monkeypatch, capsys)
    before = endpoint.fates(f"{shared}-dlq")
    assert loginpipe("dlq", "status").out == (
        f"queue '{shared}-dlq': 4 waiting, 0 in flight, 0 delayed, in a dead-letter queue shared with 2 other queues: "
        f"of all 4 that can be received, 2 are from queue '{shared}' and 2 from other queues; "
        "messages move there after 5 receives\n"
    )
    assert loginpipe("dlq", "status", "--json").json == {
        "queue": f"{shared}-dlq",
        "max_receives": 5,
        "visible": 4,
        "in_flight": 0,
        "delayed": 0,
        "other_queues": 2,
        "looked_at": {"ours": 2, "others": 2, "all": True},
    }
    monkeypatch.setattr(dead_letters, "_MAX_COUNTED", 3)
    assert loginpipe("dlq", "status", "--json").json["looked_at"]["all"] is False
    assert {message_id: fate.state for message_id, fate in endpoint.fates(f"{shared}-dlq").items()} == {
        message_id: fate.state for message_id, fate in before.items()
    }
    assert loginpipe("dlq", "redrive").out == (
        f"2 moved to queue '{shared}', 0 deleted because their outcome is recorded, 0 left, and 2 dead letters of "
        "other "
        "queues\n"
    )
    assert loginpipe("dlq", "redrive", "--json").json == {
        "dropped": 0,
        "moved": 0,
        "left": 0,
        "refused": {},
        "others": 2,
        "dry_run": False,
    }
    stats = endpoint.stats()["queues"]
    assert (stats[shared]["visible"], stats[f"{shared}-dlq"]["visible"]) == (2, 2)


def test_who_watches_the_depth_counts_our_dead_letters_and_says_how_many_are_not(
    shared: str, pipeline: Pipeline, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = "in a dead-letter queue shared with 2 other queues"
    metrics = registry(load_settings(), pipeline.database_url)
    monitor = Daemon(pipeline)

    def served() -> set[str]:
        lines = generate_latest(metrics).decode().splitlines()
        return {
            line.replace(f'{{queue="{shared}"}}', "") for line in lines if line.startswith("loginpipe_dead_letters")
        }

    before = endpoint.fates(f"{shared}-dlq")
    monitor.tick(2)
    assert read_memory(monitor.cursor).alerts.episodes["dead-letters"].message == f"2 ours and 2 not ours, {where}"
    assert (read_memory(monitor.cursor).dead_letters or "").startswith(
        f"2 ours and 2 not ours, {where}; find the cause"
    )
    assert findings()["dead-letter queue"].message.startswith(f"'{shared}-dlq' holds messages: 2 ours and 2 not ours, ")
    assert served() == {"loginpipe_dead_letters 2.0", "loginpipe_dead_letters_of_others 2.0"}
    assert endpoint.fates(f"{shared}-dlq") == {
        message_id: fate._replace(receives=fate.receives + 1) for message_id, fate in before.items()
    }, "received once by all of them together, and returned at once"

    queue = open_queue(shared, load_settings(), connections=1)
    redrive(queue, policy_of(queue).dead_letters, recorded=lambda _: ())
    monkeypatch.setattr(dead_letters, "_COUNTED_SECONDS", 0)
    monitor.tick(2)
    assert read_memory(monitor.cursor).alerts.episodes == {}
    assert read_memory(monitor.cursor).dead_letters == f"0 ours and 2 not ours, {where}"
    assert findings()["dead-letter queue"] == Finding(
        "dead-letter queue",
        True,
        f"'{shared}-dlq': 0 ours and 2 not ours, {where}; messages move there after 5 receives",
    )
    assert served() == {"loginpipe_dead_letters 0.0", "loginpipe_dead_letters_of_others 2.0"}


def test_dead_letters_that_cannot_be_counted_by_owner_count_as_ours(
    shared: str, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "_COUNTED_SECONDS", 0)
    queue = open_queue(shared, load_settings(), connections=1)

    def found() -> tuple[int, str]:
        depth = read_dead_letters(queue)
        assert depth is not None
        return depth.ours, str(depth)

    not_counted = "in a dead-letter queue shared with 2 other queues: `loginpipe dlq status` counts which are ours"
    try:
        endpoint.add_fault("error", "ReceiveMessage", code="AccessDenied", status=403)
        assert found() == (4, f"4 waiting, 0 in flight, 0 delayed, {not_counted}")
        endpoint.clear_faults()
        endpoint.add_fault("error", "ListDeadLetterSourceQueues", code="AccessDenied", status=403)
        ours, words = found()
        assert (ours, "perhaps of other queues too (grant sqs:ListDeadLetterSourceQueues)" in words) == (4, True)
    finally:
        endpoint.clear_faults()
    client = endpoint.client
    client.receive_message(QueueUrl=policy_of(queue).dead_letters.url, MaxNumberOfMessages=10, VisibilityTimeout=60)
    assert found() == (4, f"0 waiting, 4 in flight, 0 delayed, {not_counted}"), "hidden by another consumer"


def test_dead_letters_that_one_more_receive_would_move_on_are_not_received_to_be_counted(
    shared: str, endpoint: Endpoint
) -> None:
    queue = open_queue(shared, load_settings(), connections=1)
    dead = policy_of(queue).dead_letters.url
    client = endpoint.client
    last = client.create_queue(QueueName=f"{shared}-last")["QueueUrl"]
    arn = client.get_queue_attributes(QueueUrl=last, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": "1"})
    client.set_queue_attributes(QueueUrl=dead, Attributes={"RedrivePolicy": policy})
    before = endpoint.fates(f"{shared}-dlq")
    found = read_dead_letters(queue)
    assert found is not None
    assert (found.ours, found.owners) == (4, None)
    assert endpoint.fates(f"{shared}-dlq") == before


def policy_of(queue: Queue) -> RedrivePolicy:
    policy = redrive_policy(queue)
    assert policy is not None
    return policy


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_says_what_was_refused_by_code_and_exits_with_1(
    pipeline: Pipeline, queues: Queues, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loginpipe = command_line(monkeypatch, capsys)
    queues.kill(*(padded(2**20, user_id=str(number)) for number in range(2)))
    queues.kill(*logins(3))
    for arguments, said in (
        (
            ["--json"],
            {"dropped": 0, "moved": 3, "left": 2, "refused": {"MessageTooLong": 2}, "others": 0, "dry_run": False},
        ),
        ([], f"0 moved to queue '{queues.queue.name}', 0 deleted because their outcome is recorded, 2 left\n"),
    ):
        done = loginpipe("dlq", "redrive", *arguments)
        assert done.code == 1
        assert (json.loads(done.out) if arguments else done.out) == said
        assert done.err == (
            f"error: queue '{queues.queue.name}' refused dead letters (2 MessageTooLong), "
            "which stay where they are: see "
            "docs/operations.md#what-is-refused\n"
        )


# --- interrupted ------------------------------------------------------------------------------------------------------


def test_a_send_whose_answer_is_lost_makes_copies_that_are_one_message(
    pipeline: Pipeline, queues: Queues, warehouse: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    queues.kill(*logins(3))

    def unheard(call: Call, forward: Forward) -> Answer:
        forward(call)
        return refusal("InternalError", 500)

    queues.on(queues.queue, "SendMessageBatch", first(1, unheard))
    assert queues.redrive(recorded=of_the_ledger(warehouse)).moved == 3
    assert depths(queues) == (6, 0)
    monkeypatch.setenv("LOGINPIPE_RECEIVERS", "1")
    assert take(pipeline, 6).success
    assert users(pipeline) == ["user-0", "user-1", "user-2"]
    assert depths(queues) == (0, 0)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_redrive_gives_back_what_it_holds_and_goes_on_when_begun_again(
    queues: Queues, interruption: type[BaseException]
) -> None:
    ids = queues.kill(*logins(25))

    def interrupt(_: int) -> None:
        raise interruption

    with pytest.raises(interruption):
        queues.redrive(progress=interrupt)
    assert read_depth(queues.queue).total == 10
    assert read_depth(queues.dead).visible == 15
    assert queues.redrive().moved == 15
    assert sorted(identities(waiting(queues.queue))) == sorted(ids)


def test_interrupted_while_it_asks_the_ledger_it_gives_everything_back_at_once(queues: Queues) -> None:
    """Dead letters have high receive counts. A back-off by them would hide the messages from a second redrive."""
    ids = queues.kill(*logins(3))

    def no_ledger(_: object) -> Iterable[str]:
        raise QueueError("stands for any failure")

    with pytest.raises(QueueError):
        queues.redrive(recorded=no_ledger)
    assert read_depth(queues.queue).total == 0
    assert read_depth(queues.dead).visible == 3
    assert {message["MessageId"] for message in waiting(queues.dead)} == set(ids)


# --- the policy -------------------------------------------------------------------------------------------------------


def test_the_policy_names_the_dead_letter_queue_and_the_receives(queues: Queues, queue: Queue) -> None:
    policy = redrive_policy(queue)
    assert policy is not None
    assert (policy.dead_letters.name, policy.dead_letters.url) == (queues.dead.name, queues.dead.url)
    assert policy.max_receives == 5


def test_a_queue_without_a_policy_has_no_dead_letter_queue(queue: Queue) -> None:
    queue.client.set_queue_attributes(QueueUrl=queue.url, Attributes={"RedrivePolicy": ""})
    assert redrive_policy(queue) is None


def test_a_dead_letter_queue_that_is_gone_is_named(queues: Queues, queue: Queue) -> None:
    other = queue.client.create_queue(QueueName=f"other-{uuid4().hex}")["QueueUrl"]
    arn = queue.client.get_queue_attributes(QueueUrl=other, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": "3"})
    queue.client.set_queue_attributes(QueueUrl=queue.url, Attributes={"RedrivePolicy": policy})
    queue.client.delete_queue(QueueUrl=other)
    with pytest.raises(QueueError) as caught:
        redrive_policy(queue)
    assert str(caught.value).startswith(f"queue '{other.rsplit('/', 1)[-1]}' does not exist")


def test_a_redrive_and_a_run_make_no_call_that_their_policies_do_not_allow(
    pipeline: Pipeline, queues: Queues, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loginpipe = command_line(monkeypatch, capsys)
    queues.kill(*logins(2))
    monkeypatch.setenv("AWS_ENDPOINT_URL", queues.wire.url)
    queues.wire.calls.clear()
    assert loginpipe("dlq", "redrive", "--dry-run").code == loginpipe("dlq", "redrive").code == 0
    assert not_allowed(queues.wire.calls, "redrive") == set()
    queues.wire.calls.clear()
    assert take(pipeline, 2).success
    findings()
    assert not_allowed(queues.wire.calls, "pipeline") == set()
