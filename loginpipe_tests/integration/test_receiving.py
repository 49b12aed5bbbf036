"""Receiving on the real endpoint: how much, how long, and who is in charge of what was received."""

import itertools
import os
import time
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import pytest

from loginpipe.common.errors import QueueError
from loginpipe.common.settings import load_settings
from loginpipe.sqs import receiver
from loginpipe.sqs.client import Queue, open_queue
from loginpipe.sqs.depth import read_depth
from loginpipe.sqs.leases import LeaseKeeper
from loginpipe.sqs.receiver import RECEIVERS_FIRST, Received, receive_batch
from loginpipe_tests.sqs_endpoint import running_endpoint
from loginpipe_tests.wire import (
    Answer,
    Call,
    Forward,
    Tamper,
    Wire,
    answers,
    damaged_bodies,
    first,
    refusal,
    success,
)

pytestmark = pytest.mark.usefixtures("either_client")


@pytest.fixture
def leases(opened: Queue) -> Iterator[LeaseKeeper]:
    leases = LeaseKeeper(opened, visibility_seconds=60, calls_at_once=2)
    yield leases
    leases.close()


def send(queue: Queue, number: int) -> None:
    for start in range(0, number, 10):
        entries = [{"Id": str(i), "MessageBody": f"body: {i}"} for i in range(start, min(start + 10, number))]
        queue.client.send_message_batch(QueueUrl=queue.url, Entries=entries)  # type: ignore[arg-type]


def receive(queue: Queue, leases: LeaseKeeper, **bounds: Any) -> Received:
    defaults = {"most": 100, "seconds": 20, "visibility_seconds": 60, "receivers": 2}
    return receive_batch(queue, leases, **(defaults | bounds))


def shown_for(seconds: int) -> Tamper:
    """Let messages be received with another visibility timeout than the one asked for."""
    return lambda call, forward: forward(call.with_request({**call.request, "VisibilityTimeout": seconds}))


@pytest.mark.parametrize(("most", "receivers"), [(1, 1), (7, 3), (10, 1), (25, 8)])
def test_no_more_is_taken_than_was_asked_for(opened: Queue, leases: LeaseKeeper, most: int, receivers: int) -> None:
    send(opened, 30)
    received = receive(opened, leases, most=most, receivers=receivers)
    assert len(received.messages) == leases.held == most
    assert not received.drained
    depth = read_depth(opened)
    assert (depth.visible, depth.in_flight) == (30 - most, most)


def test_a_drained_queue_ends_the_receiving_long_before_its_time(opened: Queue, leases: LeaseKeeper) -> None:
    send(opened, 23)
    started = time.monotonic()
    received = receive(opened, leases, seconds=60, receivers=3)
    assert {message.body for message in received.messages.values()} == {f"body: {i}" for i in range(23)}
    assert received.drained
    assert received.empty_receives == 3
    assert time.monotonic() - started < 15


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
            received = receive(queue, leases, most=2000, receivers=32)
            assert len(received.messages) == 2000
            receivers[milliseconds] = received.receivers
            leases.close(at_once=True)
    assert RECEIVERS_FIRST <= receivers[0] <= receivers[20] <= 32
    assert receivers[20] > 2 * RECEIVERS_FIRST


def test_a_shallow_queue_needs_no_more_than_the_first_ones(opened: Queue, leases: LeaseKeeper) -> None:
    send(opened, 9)
    assert receive(opened, leases, receivers=32).receivers == RECEIVERS_FIRST


def test_when_the_time_is_up_what_was_received_until_then_is_the_bite(
    opened: Queue, leases: LeaseKeeper, wire: Wire
) -> None:
    def one_at_a_time(call: Call, forward: Forward) -> Answer:
        return forward(call.with_request({**call.request, "MaxNumberOfMessages": 1}))

    wire.on("ReceiveMessage", one_at_a_time)
    send(opened, 500)
    started = time.monotonic()
    received = receive(opened, leases, most=500, seconds=0.3, receivers=1)
    assert 1 <= len(received.messages) < 500
    assert not received.drained
    assert leases.held == len(received.messages)
    assert time.monotonic() - started < 5


def test_a_message_carries_what_sqs_says_of_it(opened: Queue, leases: LeaseKeeper) -> None:
    before = time.time_ns() // 1_000_000
    sent = opened.client.send_message(QueueUrl=opened.url, MessageBody="ключ 😀 \t\n<&>")
    received = receive(opened, leases, most=1)
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
    (message,) = receive(opened, leases, most=1).messages.values()
    assert message.receive_count == 2
    assert message.sent_ms == int(delivered["Messages"][0]["Attributes"]["SentTimestamp"])


def test_each_call_asks_for_the_lease_the_long_poll_and_the_attributes_that_are_needed(
    opened: Queue, leases: LeaseKeeper, wire: Wire
) -> None:
    send(opened, 1)
    receive(opened, leases, most=1, visibility_seconds=77)
    (asked,) = wire.asked("ReceiveMessage")
    assert asked == {
        "QueueUrl": opened.url,
        "MaxNumberOfMessages": 1,
        "WaitTimeSeconds": 1,
        "VisibilityTimeout": 77,
        "MessageSystemAttributeNames": ["SentTimestamp", "ApproximateReceiveCount"],
        "MessageAttributeNames": ["loginpipe.*"],
    }


def test_of_a_message_that_comes_twice_the_newest_delivery_counts(
    opened: Queue, leases: LeaseKeeper, wire: Wire
) -> None:
    wire.on("ReceiveMessage", first(1, shown_for(0)))
    send(opened, 1)
    received = receive(opened, leases, most=2, receivers=1)
    (message,) = received.messages.values()
    assert message.receive_count == 2
    assert leases.handles([message.message_id]) == {message.message_id: message.receipt_handle}
    deleted = opened.client.delete_message_batch(
        QueueUrl=opened.url, Entries=[{"Id": "0", "ReceiptHandle": message.receipt_handle}]
    )
    assert not deleted.get("Failed")
    assert read_depth(opened).visible == read_depth(opened).in_flight == 0


def test_a_message_that_comes_twice_takes_one_place_in_the_bite(opened: Queue, leases: LeaseKeeper, wire: Wire) -> None:
    wire.on("ReceiveMessage", first(1, shown_for(0)))
    send(opened, 12)
    received = receive(opened, leases, most=12, receivers=1)
    assert len(received.messages) == 12


def test_a_damaged_body_is_handed_back_at_once_and_not_kept(opened: Queue, leases: LeaseKeeper, wire: Wire) -> None:
    wire.on("ReceiveMessage", first(1, damaged_bodies(lambda message: message["Body"] == "body: 1")))
    send(opened, 3)
    received = receive(opened, leases, most=3, receivers=1)
    assert received.damaged == 1
    found = {message.body: (message.body_intact, message.receive_count) for message in received.messages.values()}
    assert found == {"body: 0": (True, 1), "body: 1": (True, 2), "body: 2": (True, 1)}


def test_when_a_receive_fails_for_good_what_came_before_is_the_bite(
    opened: Queue, leases: LeaseKeeper, wire: Wire
) -> None:
    passed = iter([True])

    def one_then_refusals(call: Call, forward: Forward) -> Answer:
        return forward(call) if next(passed, False) else refusal("AccessDenied", 403)

    wire.on("ReceiveMessage", one_then_refusals)
    send(opened, 20)
    received = receive(opened, leases, receivers=1)
    assert len(received.messages) == leases.held == 10
    assert not received.drained
    assert str(received.broken_off) == (
        f"queue '{opened.name}' may not be used with these credentials (AccessDenied): grant what docs/aws.md lists"
    )


def test_an_endpoint_that_leaves_out_the_attributes_is_named(opened: Queue, leases: LeaseKeeper, wire: Wire) -> None:
    def without_attributes(call: Call, forward: Forward) -> Answer:
        content = forward(call).content
        return success({"Messages": [{k: v for k, v in m.items() if k != "Attributes"} for m in content["Messages"]]})

    wire.on("ReceiveMessage", without_attributes)
    send(opened, 1)
    with pytest.raises(QueueError, match=r"does not answer in today's SQS protocol"):
        receive(opened, leases, most=1)


def test_when_one_receiver_fails_the_others_stop_too(
    opened: Queue, leases: LeaseKeeper, wire: Wire, either_client: str
) -> None:
    refused = answers(refusal("AccessDenied", 403))
    once = first(1, refused)

    def to_one_receiver(call: Call, forward: Forward) -> Answer:
        # Beside our client, boto3 asks only for the one that was refused.
        by_boto3 = either_client == "lean" and "amz-sdk-invocation-id" in call.headers
        return (refused if by_boto3 else once)(call, forward)

    wire.on("ReceiveMessage", to_one_receiver)
    started = time.monotonic()
    with pytest.raises(QueueError, match=r"may not be used with these credentials \(AccessDenied\)"):
        receive(opened, leases, seconds=60, receivers=4)
    assert time.monotonic() - started < 15


def test_a_message_of_a_mebibyte_arrives_whole(opened: Queue, leases: LeaseKeeper) -> None:
    body = "é" * 524_288
    opened.client.send_message(QueueUrl=opened.url, MessageBody=body)
    (message,) = receive(opened, leases, most=1).messages.values()
    assert message.body == body
    assert message.body_intact


def test_bodies_together_are_bounded_and_what_is_beyond_stays_on_the_queue(
    opened: Queue, leases: LeaseKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver, "BODY_BYTES_MOST", 1000)
    for _ in range(40):
        opened.client.send_message(QueueUrl=opened.url, MessageBody="x" * 100)
    received = receive(opened, leases, receivers=1)
    assert len(received.messages) == 10
    assert not received.drained
    assert read_depth(opened).visible == 30


def test_large_messages_that_follow_small_ones_to_many_receivers_are_bounded_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(receiver, "BODY_BYTES_MOST", 100_000)
    monkeypatch.setattr(receiver, "BODY_BYTES_KEPT", 140_000)
    with running_endpoint() as endpoint:
        endpoint.client.create_queue(QueueName="mixed")
        endpoint.send("mixed", itertools.chain(itertools.repeat("x", 400), itertools.repeat("x" * 5000, 400)))
        endpoint.add_fault("delay", "ReceiveMessage", seconds=0.05)
        with patch.dict(os.environ, endpoint.aws_environment):
            queue = open_queue("mixed", load_settings(), connections=1)
        leases = LeaseKeeper(queue, visibility_seconds=60, calls_at_once=2)
        received = receive(queue, leases, most=2000, receivers=32)
        assert received.receivers > 10, "or no more could be under way than the first ones may bring"
        assert 100_000 <= received.body_bytes <= 140_000
        depth = read_depth(queue)
        assert depth.in_flight == leases.held == len(received.messages)
        assert depth.visible == 800 - len(received.messages)
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
