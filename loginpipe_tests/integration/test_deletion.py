"""Deleting on the real endpoint: the confirmed is settled, the failed tried again or reported, and nothing raises."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from loginpipe.logins.messages import Message
from loginpipe.sqs import client
from loginpipe.sqs.client import Queue, open_queue
from loginpipe.sqs.deletion import Deletion, delete_messages
from loginpipe.sqs.depth import read_depth
from loginpipe.sqs.leases import LeaseKeeper
from loginpipe_tests.wire import PLAIN_WEB_SERVER, Answer, Wire, answers, delivered, failed_entries, first, refusal

pytestmark = pytest.mark.usefixtures("either_client")

DELETE = "DeleteMessageBatch"


@pytest.fixture
def wire(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    with Wire(queue.client.meta.endpoint_url) as wire:
        monkeypatch.setenv("AWS_ENDPOINT_URL", wire.url)
        monkeypatch.setattr(client, "_ATTEMPTS", 1)
        yield wire


@pytest.fixture
def leases(opened: Queue) -> Iterator[LeaseKeeper]:
    leases = LeaseKeeper(opened, visibility_seconds=120, calls_at_once=2)
    yield leases
    leases.close()


@pytest.fixture
def pauses() -> list[float]:
    """What was waited for between the rounds; no time passes."""
    return []


def received(queue: Queue, number: int, visibility_seconds: int = 120) -> list[Message]:
    """Send so many messages, and receive them."""
    for i in range(number):
        queue.client.send_message(QueueUrl=queue.url, MessageBody=str(i))
    return received_again(queue, number, visibility_seconds)


def received_again(queue: Queue, number: int, visibility_seconds: int = 120) -> list[Message]:
    messages: list[Message] = []
    while len(messages) < number:
        answer = queue.client.receive_message(
            QueueUrl=queue.url,
            MaxNumberOfMessages=10,
            VisibilityTimeout=visibility_seconds,
            MessageSystemAttributeNames=["ApproximateReceiveCount"],
        )
        messages += [
            delivered(
                m["Body"],
                message_id=m["MessageId"],
                receipt_handle=m["ReceiptHandle"],
                receive_count=int(m["Attributes"]["ApproximateReceiveCount"]),
            )
            for m in answer["Messages"]
        ]
    return messages


def delete(queue: Queue, leases: LeaseKeeper, messages: list[Message], pauses: list[float]) -> Deletion:
    ids = [message.message_id for message in messages]
    return delete_messages(queue, leases, ids, calls_at_once=2, pause=pauses.append)


def in_queue(queue: Queue) -> int:
    depth = read_depth(queue)
    return depth.visible + depth.in_flight


def test_messages_are_deleted_ten_a_call_and_no_longer_held(
    opened: Queue, leases: LeaseKeeper, wire: Wire, pauses: list[float]
) -> None:
    messages = received(opened, 23)
    leases.add(messages, asked=0)
    assert delete(opened, leases, messages[:22], pauses) == Deletion(22, Counter())
    assert sorted(len(request["Entries"]) for request in wire.asked(DELETE)) == [2, 10, 10]
    assert leases.held == in_queue(opened) == 1
    assert pauses == []


def test_nothing_to_delete_makes_no_call(opened: Queue, leases: LeaseKeeper, wire: Wire, pauses: list[float]) -> None:
    assert delete(opened, leases, [], pauses) == Deletion(0, Counter())
    assert wire.asked(DELETE) == []


def test_faults_of_the_server_are_tried_again_with_growing_pauses_until_they_pass(
    opened: Queue, leases: LeaseKeeper, wire: Wire, pauses: list[float]
) -> None:
    messages = received(opened, 3)
    leases.add(messages, asked=0)
    faulty = messages[1].receipt_handle
    wire.on(
        DELETE,
        first(3, failed_entries("InternalError", sender_fault=False, which=lambda e: e["ReceiptHandle"] == faulty)),
    )
    assert delete(opened, leases, messages, pauses) == Deletion(3, Counter())
    assert [[entry["ReceiptHandle"] for entry in request["Entries"]] for request in wire.asked(DELETE)[1:]] == [
        [faulty]
    ] * 3
    assert len(pauses) == 3
    assert pauses == sorted(set(pauses))
    assert leases.held == in_queue(opened) == 0


def test_faults_of_the_server_that_do_not_pass_are_reported_after_five_rounds(
    opened: Queue, leases: LeaseKeeper, wire: Wire, pauses: list[float]
) -> None:
    messages = received(opened, 3)
    leases.add(messages, asked=0)
    wire.on(DELETE, failed_entries("InternalError", sender_fault=False))
    assert delete(opened, leases, messages, pauses) == Deletion(0, Counter({"InternalError": 3}))
    assert len(wire.asked(DELETE)) == 5
    assert leases.held == in_queue(opened) == 3


def test_faults_of_the_sender_are_tried_twice_and_then_reported_and_the_others_are_deleted(
    opened: Queue, leases: LeaseKeeper, wire: Wire, pauses: list[float]
) -> None:
    messages = received(opened, 4)
    leases.add(messages, asked=0)
    refused = {message.receipt_handle for message in messages[:2]}
    wire.on(
        DELETE,
        failed_entries("ReceiptHandleIsInvalid", sender_fault=True, which=lambda e: e["ReceiptHandle"] in refused),
    )
    assert delete(opened, leases, messages, pauses) == Deletion(2, Counter({"ReceiptHandleIsInvalid": 2}))
    assert [len(request["Entries"]) for request in wire.asked(DELETE)] == [4, 2]
    assert leases.held == in_queue(opened) == 2


@pytest.mark.parametrize(
    ("answer", "reported"),
    [
        (refusal("InternalError", 500), ("InternalError", 5)),
        (refusal("ServiceUnavailable", 503), ("ServiceUnavailable", 5)),
        (refusal("AccessDenied", 403), ("AccessDenied", 2)),
        (Answer(502, b"<html>bad gateway</html>"), ("502", 5)),
    ],
    ids=["500", "503", "403", "502 of a proxy"],
)
def test_a_call_that_fails_as_a_whole_counts_for_each_of_its_messages(
    opened: Queue,
    leases: LeaseKeeper,
    wire: Wire,
    calls_of_a_failure: int,
    *,
    answer: Answer,
    reported: tuple[str, int],
) -> None:
    code, rounds = reported
    messages = received(opened, 2)
    leases.add(messages, asked=0)
    wire.on(DELETE, answers(answer))
    assert delete(opened, leases, messages, []) == Deletion(0, Counter({code: 2}))
    assert len(wire.asked(DELETE)) == rounds * calls_of_a_failure
    assert leases.held == 2


def test_an_endpoint_that_went_away_is_reported_and_raises_nothing(queue: Queue, pauses: list[float]) -> None:
    with Wire(queue.client.meta.endpoint_url) as wire, pytest.MonkeyPatch.context() as patched:
        patched.setenv("AWS_ENDPOINT_URL", wire.url)
        patched.setattr(client, "_ATTEMPTS", 1)
        cut_off = open_queue(queue.name, connections=16)
        leases = LeaseKeeper(cut_off, visibility_seconds=120, calls_at_once=2)
        messages = received(cut_off, 2)
        leases.add(messages, asked=0)
    deletion = delete(cut_off, leases, messages, pauses)
    assert deletion.deleted == 0
    assert deletion.failures.total() == 2
    assert set(deletion.failures) <= {"EndpointConnectionError", "ConnectionClosedError"}
    leases.close()


def test_a_call_that_fails_once_takes_nothing_from_the_next_round(
    opened: Queue, leases: LeaseKeeper, wire: Wire, pauses: list[float]
) -> None:
    messages = received(opened, 12)
    leases.add(messages, asked=0)
    wire.on(DELETE, first(1, answers(refusal("ServiceUnavailable", 503))))
    assert delete(opened, leases, messages, pauses) == Deletion(12, Counter())
    assert in_queue(opened) == 0


@pytest.mark.parametrize(
    "answer",
    [
        PLAIN_WEB_SERVER,
        Answer(200, b"{}"),
        Answer(200, b'{"Successful": []}'),
        Answer(200, b'{"Successful": [{"Id": "one"}, {}], "Failed": [{"Id": "0"}]}'),
        Answer(200, b"[]"),
        Answer(200, b"\xff\xfe"),
    ],
    ids=["a web server", "nothing", "none", "ids that nobody gave", "a list", "no text"],
)
def test_what_no_answer_confirms_is_not_counted_as_deleted(
    opened: Queue, leases: LeaseKeeper, wire: Wire, pauses: list[float], answer: Answer
) -> None:
    messages = received(opened, 2)
    leases.add(messages, asked=0)
    wire.on(DELETE, answers(answer))
    deletion = delete(opened, leases, messages, pauses)
    assert deletion.deleted == 0
    assert deletion.failures.total() == 2
    assert leases.held == 2


def test_a_message_that_is_not_held_is_not_counted_as_deleted(
    opened: Queue, leases: LeaseKeeper, wire: Wire, pauses: list[float]
) -> None:
    messages = received(opened, 2)
    leases.add(messages, asked=0)
    delete(opened, leases, messages[:1], pauses)
    assert delete(opened, leases, messages, pauses).deleted == 1
    assert len(wire.asked(DELETE)) == 2


def test_a_message_received_again_is_deleted_with_its_newest_handle(
    opened: Queue, leases: LeaseKeeper, wire: Wire, pauses: list[float]
) -> None:
    (old,) = received(opened, 1, visibility_seconds=0)
    leases.add([old], asked=0)
    (new,) = received_again(opened, 1)
    leases.add([new], asked=0)
    assert delete(opened, leases, [old], pauses) == Deletion(1, Counter())
    assert wire.asked(DELETE)[0]["Entries"] == [{"Id": "0", "ReceiptHandle": new.receipt_handle}]
    assert in_queue(opened) == 0


def test_a_message_received_again_between_two_rounds_is_deleted_with_its_newest_handle(
    opened: Queue, leases: LeaseKeeper, wire: Wire
) -> None:
    (old,) = received(opened, 1, visibility_seconds=0)
    leases.add([old], asked=0)
    wire.on(DELETE, first(1, failed_entries("InternalError", sender_fault=False)))

    def receive_meanwhile(_: float) -> Any:
        leases.add(received_again(opened, 1), asked=0)

    deletion = delete_messages(opened, leases, [old.message_id], calls_at_once=1, pause=receive_meanwhile)
    assert deletion == Deletion(1, Counter())
    assert in_queue(opened) == 0
