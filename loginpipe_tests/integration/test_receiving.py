"""Receiving on the real endpoint: batches, their size and time, and who owns the received messages."""

import itertools
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event, Timer
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import pytest

from loginpipe.common.errors import QueueError
from loginpipe.common.settings import load_settings
from loginpipe.sqs import receiver as module
from loginpipe.sqs.client import Queue, open_queue, read_depth
from loginpipe.sqs.leases import LeaseKeeper
from loginpipe.sqs.receiver import Received, Receiver
from loginpipe_tests.sqs_endpoint import running_endpoint
from loginpipe_tests.wire import (
    Answer,
    Call,
    Forward,
    Tamper,
    Wire,
    answers,
    damaged_bodies,
    eventually,
    first,
    refusal,
    success,
)

pytestmark = pytest.mark.usefixtures("either_client", "long_polls")


@pytest.fixture
def leases(opened: Queue) -> Iterator[LeaseKeeper]:
    leases = LeaseKeeper(opened, visibility_seconds=60, calls_at_once=2)
    yield leases
    leases.close()


def send(queue: Queue, number: int) -> None:
    for start in range(0, number, 10):
        entries = [{"Id": str(i), "MessageBody": f"body: {i}"} for i in range(start, min(start + 10, number))]
        queue.client.send_message_batch(QueueUrl=queue.url, Entries=entries)  # type: ignore[arg-type]


@contextmanager
def receiving(queue: Queue, leases: LeaseKeeper, **settings: Any) -> Iterator[Receiver]:
    """Receive until the context ends."""
    defaults = {"batch_messages": 100, "linger_seconds": 1, "visibility_seconds": 60, "receivers": 2}
    receiver = Receiver(queue, leases, **(defaults | settings))
    receiver.start()
    try:
        yield receiver
    finally:
        receiver.stop()


FULL: dict[str, Any] = {"linger_seconds": 60}
"""Batches are given when they are full, however long the receives for them take."""


def receive(queue: Queue, leases: LeaseKeeper, **settings: Any) -> Received:
    """Receive, and return the first batch."""
    with receiving(queue, leases, **settings) as receiver:
        return taken(receiver)


def taken(receiver: Receiver) -> Received:
    """Return the next batch."""
    batch = receiver.next_batch(20)
    assert batch is not None
    return batch


def bodies(*batches: Received) -> list[str]:
    return sorted(message.body for batch in batches for message in batch.messages.values())


def shown_for(seconds: int) -> Tamper:
    """Return a tamper that receives messages with this visibility timeout instead of the requested one."""
    return lambda call, forward: forward(call.with_request({**call.request, "VisibilityTimeout": seconds}))


@pytest.mark.parametrize(("most", "receivers"), [(1, 1), (7, 3), (10, 1), (12, 8)])
def test_one_batch_is_filled_beside_those_that_were_given_and_no_more_is_taken(
    opened: Queue, leases: LeaseKeeper, most: int, receivers: int
) -> None:
    send(opened, 30)
    with receiving(opened, leases, batch_messages=most, receivers=receivers, **FULL) as receiver:
        assert len(taken(receiver).messages) == most
        eventually(lambda: leases.held == 2 * most, "the next batch is full")
        # No receiver asks for more than there is space for, even after some time.
        time.sleep(0.3)
        depth = read_depth(opened)
        assert (depth.visible, depth.in_flight) == (30 - 2 * most, 2 * most)
        assert len(taken(receiver).messages) == most


def test_batch_after_batch_gives_every_message_once(opened: Queue, leases: LeaseKeeper) -> None:
    send(opened, 100)
    with receiving(opened, leases, batch_messages=20, receivers=8, **FULL) as receiver:
        batches = [taken(receiver) for _ in range(5)]
        assert receiver.next_batch(0.1) is None
    assert [len(batch.messages) for batch in batches] == [20] * 5
    assert bodies(*batches) == sorted(f"body: {i}" for i in range(100))


def test_a_batch_is_given_when_it_is_full_and_not_before_it_has_lingered(opened: Queue, leases: LeaseKeeper) -> None:
    send(opened, 13)
    with receiving(opened, leases, batch_messages=10, linger_seconds=4) as receiver:
        began = time.monotonic()
        assert len(taken(receiver).messages) == 10
        assert time.monotonic() - began < 4
        assert receiver.next_batch(0.2) is None
        rest = taken(receiver)
        assert time.monotonic() - began > 4
        assert len(rest.messages) == 3


def test_messages_that_trickle_in_while_a_batch_lingers_are_in_it(opened: Queue, leases: LeaseKeeper) -> None:
    with receiving(opened, leases, batch_messages=3, **FULL) as receiver, ThreadPoolExecutor(1) as pool:
        batch = pool.submit(taken, receiver)
        for _ in range(3):
            send(opened, 1)
            time.sleep(0.2)
        assert len(batch.result(30).messages) == 3


def test_a_queue_is_idle_since_it_had_no_more_to_give(opened: Queue, leases: LeaseKeeper) -> None:
    send(opened, 23)
    began = time.monotonic()
    with receiving(opened, leases, linger_seconds=0.2, receivers=3) as receiver:
        assert receiver.idle_since is None
        batches: list[Received] = []
        while len(bodies(*batches)) < 23:
            batches.append(taken(receiver))
        assert bodies(*batches) == sorted(f"body: {i}" for i in range(23))
        eventually(lambda: receiver.idle_since is not None, "idle")
        idle_since = receiver.idle_since
        assert idle_since is not None
        assert began < idle_since < time.monotonic()
        eventually(lambda: receiver.counts.empty_receives > 2, "further long polls")
        assert receiver.idle_since == idle_since
        send(opened, 1)
        eventually(lambda: receiver.idle_since is None, "no longer idle")
        taken(receiver)
        eventually(lambda: receiver.idle_since is not None, "idle again")
        assert receiver.idle_since > idle_since


def test_of_two_receivers_that_find_nothing_at_the_same_time_one_goes_on(opened: Queue, leases: LeaseKeeper) -> None:
    """Neither may rely on the other, because that one is about to end too."""
    receiver = Receiver(opened, leases, batch_messages=100, linger_seconds=1, visibility_seconds=60, receivers=2)
    receiver._receivers = 2
    asked_for = [receiver._ask_for() for _ in range(2)]
    # One after the other, before either has ended.
    assert [receiver._receive_and_pause(number) for number in asked_for] == [False, True]


def test_after_a_stop_what_was_received_is_given_and_no_more_is_asked_for(opened: Queue, leases: LeaseKeeper) -> None:
    send(opened, 40)
    with receiving(opened, leases, batch_messages=10, linger_seconds=60) as receiver:
        taken(receiver)
        eventually(lambda: leases.held == 20, "the next batch is full")
    assert len(taken(receiver).messages) == 10
    assert receiver.next_batch(20) is None
    assert read_depth(opened).visible == 20


def test_what_a_long_poll_brings_after_a_stop_is_given_too(opened: Queue, leases: LeaseKeeper, wire: Wire) -> None:
    asked, answer = Event(), Event()

    def late(call: Call, forward: Forward) -> Answer:
        asked.set()
        assert answer.wait(20)
        return forward(call)

    wire.on("ReceiveMessage", late)
    send(opened, 3)
    with receiving(opened, leases, linger_seconds=60, receivers=1) as receiver:
        assert asked.wait(20)
        Timer(0.3, answer.set).start()
    assert bodies(taken(receiver)) == ["body: 0", "body: 1", "body: 2"]


def test_a_stop_waits_no_longer_than_it_is_told_to(opened: Queue, leases: LeaseKeeper, wire: Wire) -> None:
    asked, answer = Event(), Event()

    def hangs(call: Call, forward: Forward) -> Answer:
        asked.set()
        assert answer.wait(20)
        return forward(call)

    wire.on("ReceiveMessage", hangs)
    send(opened, 3)
    with receiving(opened, leases, receivers=1) as receiver:
        assert asked.wait(20)
        began = time.monotonic()
        receiver.stop(wait_seconds=0.2)
        assert time.monotonic() - began < 5
        leases.close()
        answer.set()
    # Its messages are visible again, because no one is left to process them.
    assert read_depth(opened).visible == 3


def test_the_longer_sqs_takes_to_answer_the_more_long_polls_there_are_at_once() -> None:
    with running_endpoint() as endpoint:
        environment = endpoint.aws_environment
        receivers = {}
        for milliseconds in (0, 20):
            name = f"after-{milliseconds}-ms"
            endpoint.client.create_queue(QueueName=name)
            endpoint.send_samples(name, 2000, seed=1)
            endpoint.clear_faults()
            endpoint.add_fault("delay", "ReceiveMessage", seconds=milliseconds / 1000)
            with patch.dict(os.environ, environment):
                queue = open_queue(name, load_settings(), connections=1)
            leases = LeaseKeeper(queue, visibility_seconds=60, calls_at_once=2)
            with receiving(queue, leases, batch_messages=2000, linger_seconds=20, receivers=32) as receiver:
                assert len(taken(receiver).messages) == 2000
            receivers[milliseconds] = receiver.counts.receivers
            leases.close(at_once=True)
    assert 1 <= receivers[0] <= receivers[20] <= 32
    assert receivers[20] > 4


def test_a_shallow_queue_needs_no_more_than_one(opened: Queue, leases: LeaseKeeper) -> None:
    send(opened, 9)
    with receiving(opened, leases, receivers=32) as receiver:
        taken(receiver)
    assert receiver.counts.receivers == 1


def test_when_a_batch_has_lingered_what_was_received_until_then_is_given(
    opened: Queue, leases: LeaseKeeper, wire: Wire
) -> None:
    def one_at_a_time(call: Call, forward: Forward) -> Answer:
        return forward(call.with_request({**call.request, "MaxNumberOfMessages": 1}))

    wire.on("ReceiveMessage", one_at_a_time)
    send(opened, 500)
    started = time.monotonic()
    received = receive(opened, leases, batch_messages=500, linger_seconds=0.3, receivers=1)
    assert 1 <= len(received.messages) < 500
    assert leases.held >= len(received.messages)
    assert time.monotonic() - started < 5


def test_a_message_carries_what_sqs_says_of_it(opened: Queue, leases: LeaseKeeper) -> None:
    before = time.time_ns() // 1_000_000
    sent = opened.client.send_message(QueueUrl=opened.url, MessageBody="ключ 😀 \t\n<&>")
    received = receive(opened, leases, batch_messages=1)
    (message,) = received.messages.values()
    assert (message.message_id, message.body) == (sent["MessageId"], "ключ 😀 \t\n<&>")
    assert (message.receive_count, message.body_intact) == (1, True)
    assert before - 1000 <= message.sent_ms <= message.received_ms <= time.time_ns() // 1_000_000
    assert "ключ" not in repr(message)
    assert message.receipt_handle not in repr(message)


def test_the_time_of_sending_stays_when_a_message_comes_again(opened: Queue, leases: LeaseKeeper) -> None:
    opened.client.send_message(QueueUrl=opened.url, MessageBody="x")
    delivered = opened.client.receive_message(
        QueueUrl=opened.url, VisibilityTimeout=0, MessageSystemAttributeNames=["SentTimestamp"]
    )
    (message,) = receive(opened, leases, batch_messages=1).messages.values()
    assert message.receive_count == 2
    assert message.sent_ms == int(delivered["Messages"][0]["Attributes"]["SentTimestamp"])


def test_each_call_asks_for_the_lease_the_long_poll_and_the_attributes_that_are_needed(
    opened: Queue, leases: LeaseKeeper, wire: Wire
) -> None:
    send(opened, 1)
    receive(opened, leases, batch_messages=1, visibility_seconds=77)
    assert wire.asked("ReceiveMessage")[0] == {
        "QueueUrl": opened.url,
        "MaxNumberOfMessages": 1,
        "WaitTimeSeconds": 1,
        "VisibilityTimeout": 77,
        "MessageSystemAttributeNames": ["SentTimestamp", "ApproximateReceiveCount"],
        "AttributeNames": ["SentTimestamp", "ApproximateReceiveCount"],
        "MessageAttributeNames": ["loginpipe.*"],
    }


def test_of_a_message_that_comes_twice_the_newest_delivery_counts(
    opened: Queue, leases: LeaseKeeper, wire: Wire
) -> None:
    wire.on("ReceiveMessage", first(1, shown_for(0)))
    send(opened, 1)
    with receiving(opened, leases, batch_messages=2, receivers=1, **FULL) as receiver:
        eventually(lambda: len(wire.asked("ReceiveMessage")) > 2, "it came again")
    (message,) = taken(receiver).messages.values()
    assert message.receive_count == 2
    assert leases.handles([message.message_id]) == {message.message_id: message.receipt_handle}
    deleted = opened.client.delete_message_batch(
        QueueUrl=opened.url, Entries=[{"Id": "0", "ReceiptHandle": message.receipt_handle}]
    )
    assert not deleted.get("Failed")
    assert read_depth(opened).visible == read_depth(opened).in_flight == 0


def test_a_message_that_comes_twice_takes_one_place_in_the_batch(
    opened: Queue, leases: LeaseKeeper, wire: Wire
) -> None:
    wire.on("ReceiveMessage", first(1, shown_for(0)))
    send(opened, 12)
    received = receive(opened, leases, batch_messages=12, receivers=1, **FULL)
    assert len(received.messages) == 12


def test_a_damaged_body_is_handed_back_at_once_and_not_kept(opened: Queue, leases: LeaseKeeper, wire: Wire) -> None:
    wire.on("ReceiveMessage", first(1, damaged_bodies(lambda message: message["Body"] == "body: 1")))
    send(opened, 3)
    with receiving(opened, leases, batch_messages=3, receivers=1, **FULL) as receiver:
        received = taken(receiver)
    assert receiver.counts.corrupt == 1
    found = {message.body: (message.body_intact, message.receive_count) for message in received.messages.values()}
    assert found == {"body: 0": (True, 1), "body: 1": (True, 2), "body: 2": (True, 1)}


def test_when_a_receive_fails_for_good_what_came_before_is_given_first(
    opened: Queue, leases: LeaseKeeper, wire: Wire
) -> None:
    passed = iter([True])

    def one_then_refusals(call: Call, forward: Forward) -> Answer:
        return forward(call) if next(passed, False) else refusal("AccessDenied", 403)

    wire.on("ReceiveMessage", one_then_refusals)
    send(opened, 20)
    with receiving(opened, leases, linger_seconds=60, receivers=1) as receiver:
        assert len(taken(receiver).messages) == leases.held == 10
        with pytest.raises(QueueError) as caught:
            receiver.next_batch(20)
    assert str(caught.value) == (
        f"queue '{opened.name}' may not be used with these credentials (AccessDenied): grant what docs/aws.md lists"
    )


@pytest.mark.parametrize(
    ("spoil", "wrong"),
    [
        (lambda message: message.pop("Attributes"), "without their SentTimestamp"),
        (lambda message: message["Attributes"].pop("SentTimestamp"), "without their SentTimestamp"),
        (lambda message: message.pop("MessageId"), "without their MessageId"),
        (lambda message: message.pop("Body"), "without their Body"),
        (lambda message: message.pop("ReceiptHandle"), "without their ReceiptHandle"),
        (lambda message: message["Attributes"].update(SentTimestamp="last week"), "of another form than SQS's"),
    ],
)
def test_an_answer_that_cannot_be_read_returns_its_messages_at_once_and_what_is_wrong_is_named(
    opened: Queue, leases: LeaseKeeper, wire: Wire, spoil: Callable[[dict[str, Any]], object], wrong: str
) -> None:
    def spoiled(call: Call, forward: Forward) -> Answer:
        messages = forward(call).content["Messages"]
        spoil(messages[0])
        return success({"Messages": messages})

    wire.on("ReceiveMessage", spoiled)
    send(opened, 3)
    with pytest.raises(QueueError) as caught:
        receive(opened, leases, batch_messages=3, receivers=1)
    assert str(caught.value) == (
        f"queue '{opened.name}' is at an endpoint that delivers messages {wrong}: upgrade it, or fix AWS_ENDPOINT_URL; "
        "they are back on the queue"
    )
    assert caught.value.__suppress_context__
    # A message without a receipt handle cannot be returned.
    assert read_depth(opened).visible == (2 if "ReceiptHandle" in wrong else 3)


@pytest.mark.parametrize(
    "content",
    [{"Messages": {"a": 1}}, {"Messages": "none"}, {"Messages": ["message"]}, {"Messages": [{"Attributes": ["a"]}]}],
)
def test_an_answer_that_is_no_list_of_messages_is_named_too(
    opened: Queue, leases: LeaseKeeper, wire: Wire, content: dict[str, Any]
) -> None:
    wire.on("ReceiveMessage", answers(success(content)))
    with pytest.raises(QueueError, match=rf"^queue '{opened.name}' is at an endpoint that "):
        receive(opened, leases, batch_messages=3, receivers=1)


def test_when_one_receiver_fails_the_others_stop_too(
    opened: Queue, leases: LeaseKeeper, wire: Wire, either_client: str
) -> None:
    refused = answers(refusal("AccessDenied", 403))
    once = first(1, refused)

    def to_one_receiver(call: Call, forward: Forward) -> Answer:
        # After our client's refused call, boto3 repeats it. No other call comes from boto3.
        by_boto3 = either_client == "lean" and "amz-sdk-invocation-id" in call.headers
        return (refused if by_boto3 else once)(call, forward)

    wire.on("ReceiveMessage", to_one_receiver)
    started = time.monotonic()
    with pytest.raises(QueueError, match=r"may not be used with these credentials \(AccessDenied\)"):
        receive(opened, leases, receivers=4)
    assert time.monotonic() - started < 15


def test_a_message_of_a_mebibyte_arrives_whole(opened: Queue, leases: LeaseKeeper) -> None:
    body = "é" * 524_288
    opened.client.send_message(QueueUrl=opened.url, MessageBody=body)
    (message,) = receive(opened, leases, batch_messages=1).messages.values()
    assert message.body == body
    assert message.body_intact


def test_bodies_together_are_bounded_and_what_is_beyond_stays_on_the_queue(
    opened: Queue, leases: LeaseKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BODY_BYTES", 1000)
    for _ in range(40):
        opened.client.send_message(QueueUrl=opened.url, MessageBody="x" * 100)
    with receiving(opened, leases, receivers=1) as receiver:
        assert len(taken(receiver).messages) == 10
        eventually(lambda: leases.held == 20, "the next batch is full")
        time.sleep(0.3)
        assert read_depth(opened).visible == 20


def test_large_messages_that_follow_small_ones_to_many_receivers_are_bounded_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_BODY_BYTES", 100_000)
    monkeypatch.setattr(module, "MAX_KEPT_BODY_BYTES", 140_000)
    with running_endpoint() as endpoint:
        endpoint.client.create_queue(QueueName="mixed")
        endpoint.send("mixed", itertools.chain(itertools.repeat("x", 400), itertools.repeat("x" * 5000, 400)))
        endpoint.add_fault("delay", "ReceiveMessage", seconds=0.05)
        with patch.dict(os.environ, endpoint.aws_environment):
            queue = open_queue("mixed", load_settings(), connections=1)
        leases = LeaseKeeper(queue, visibility_seconds=60, calls_at_once=2)
        with receiving(queue, leases, batch_messages=2000, receivers=32, **FULL) as receiver:
            received = taken(receiver)
        assert receiver.counts.receivers > 10, "or no more could be in flight than the first ones may bring"
        assert 100_000 <= received.body_bytes <= 140_000
        held = len(received.messages)
        while (batch := receiver.next_batch(0)) is not None:
            assert batch.body_bytes <= 140_000
            held += len(batch.messages)
        depth = read_depth(queue)
        assert depth.in_flight == leases.held == held
        assert depth.visible == 800 - held
        leases.close(at_once=True)


@pytest.mark.parametrize("first_comes", ["first", "last"])
def test_a_message_beside_one_that_was_sent_again_is_deleted_with_it(
    opened: Queue, leases: LeaseKeeper, wire: Wire, first_comes: str
) -> None:
    first_id = opened.client.send_message(QueueUrl=opened.url, MessageBody="x")["MessageId"]
    again = opened.client.send_message(
        QueueUrl=opened.url,
        MessageBody="x",
        MessageAttributes={
            "loginpipe.redrive_of": {"DataType": "String", "StringValue": first_id},
            "loginpipe.sent_ms": {"DataType": "String", "StringValue": str(time.time_ns() // 1_000_000)},
        },
    )["MessageId"]

    def in_order(call: Call, forward: Forward) -> Answer:
        answer = forward(call)
        messages = answer.content.get("Messages", [])
        messages.sort(key=lambda message: message["MessageId"] == first_id, reverse=first_comes == "first")
        return success({"Messages": messages})

    wire.on("ReceiveMessage", in_order)
    received = receive(opened, leases, receivers=1)
    assert received.delivery_ids == {first_id: {first_id, again}}


def test_a_message_that_comes_as_it_was_sent_is_deleted_by_its_id(opened: Queue, leases: LeaseKeeper) -> None:
    send(opened, 3)
    assert receive(opened, leases).delivery_ids == {}


def test_a_message_sent_again_is_known_by_its_first_id_and_time_and_deleted_in_every_form(
    opened: Queue, leases: LeaseKeeper
) -> None:
    first_id, first_ms = str(uuid4()), time.time_ns() // 1_000_000 - 3 * 86_400_000
    attributes = {
        "loginpipe.redrive_of": {"DataType": "String", "StringValue": first_id},
        "loginpipe.sent_ms": {"DataType": "String", "StringValue": str(first_ms)},
    }
    sent = [
        opened.client.send_message(QueueUrl=opened.url, MessageBody="x", MessageAttributes=attributes)["MessageId"]  # type: ignore[arg-type]
        for _ in range(2)
    ]
    received = receive(opened, leases, receivers=1)
    assert list(received.messages) == [first_id]
    assert received.messages[first_id].sent_ms == first_ms
    assert received.delivery_ids == {first_id: set(sent)}
    assert leases.held == 2
