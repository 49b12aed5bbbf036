"""Our own SQS endpoint and the embedded AWS endpoint pass the same tests of what SQS documents.

Both are called through boto3, ours through the pipeline's own client as well.

If the embedded one is known to differ from SQS, the test expects the behavior of each. What only ours can do (injected
errors, the in-flight limit, a clock set forward) is tested last.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import md5
from typing import Any
from uuid import UUID, uuid4

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ConnectionClosedError

from loginpipe.common.aws import core_session
from loginpipe.local.sample_events import sample_bodies
from loginpipe.sqs.lean_client import lean_client
from loginpipe_tests.sqs_endpoint import Endpoint, EndpointError, running_endpoint
from loginpipe_tests.sqs_endpoint.messages import Message, State
from loginpipe_tests.sqs_endpoint.queues import Limits, Queue, Redrive
from loginpipe_tests.sqs_endpoint.refusals import Refusal
from loginpipe_tests.wire import eventually

OURS = "ours"
EMBEDDED = "embedded"
MEBIBYTE = 1_048_576

Received = dict[str, Any]


def _client(url: str, **settings: Any) -> Any:
    config = Config(**{"retries": {"total_max_attempts": 1}, "max_pool_connections": 20, **settings})
    return boto3.client(
        "sqs",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=config,
    )


def _lean(client: Any) -> Any:
    """Return the pipeline's own client on top of a boto3 client."""
    session = core_session()
    session.set_credentials("test", "test")
    return lean_client(client, session, connect_seconds=5, read_seconds=30)


@dataclass(frozen=True)
class Sqs:
    """An endpoint under test, with what every test does with it."""

    kind: str
    client: Any

    def queue(self, suffix: str = "", **attributes: Any) -> str:
        """Create a queue, and return its URL."""
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in attributes.items()}
        name = f"conformance-{uuid4().hex}{suffix}"
        return self.client.create_queue(QueueName=name, Attributes=texts)["QueueUrl"]  # type: ignore[no-any-return]

    def fifo(self, **attributes: Any) -> str:
        return self.queue(".fifo", FifoQueue="true", **attributes)

    def with_dead_letters(self, receives: int, *, fifo: bool = False) -> tuple[str, str]:
        """Create a queue and its dead-letter queue."""
        make = self.fifo if fifo else self.queue
        dead_letters = make()
        policy = {"deadLetterTargetArn": self.attribute(dead_letters, "QueueArn"), "maxReceiveCount": str(receives)}
        return make(RedrivePolicy=policy), dead_letters

    def send(self, queue: str, body: str = "a login", **rest: Any) -> dict[str, Any]:
        return self.client.send_message(QueueUrl=queue, MessageBody=body, **rest)  # type: ignore[no-any-return]

    def receive(self, queue: str, most: int = 10, **rest: Any) -> list[Received]:
        asked = {"MessageSystemAttributeNames": ["All"], "MessageAttributeNames": ["All"], **rest}
        answer = self.client.receive_message(QueueUrl=queue, MaxNumberOfMessages=most, **asked)
        return answer.get("Messages", [])  # type: ignore[no-any-return]

    def receive_one(self, queue: str, **rest: Any) -> Received:
        (message,) = self.receive(queue, **rest)
        return message

    def hide(self, queue: str, message: Received, seconds: int) -> None:
        self.client.change_message_visibility(
            QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=seconds
        )

    def delete(self, queue: str, message: Received) -> None:
        self.client.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])

    def attribute(self, queue: str, name: str) -> str:
        answer = self.client.get_queue_attributes(QueueUrl=queue, AttributeNames=[name])
        return answer["Attributes"][name]  # type: ignore[no-any-return]

    def depth(self, queue: str) -> tuple[int, int, int]:
        """Return the numbers of visible, in-flight and delayed messages."""
        prefix = "ApproximateNumberOfMessages"
        names = [prefix, f"{prefix}NotVisible", f"{prefix}Delayed"]
        counts = self.client.get_queue_attributes(QueueUrl=queue, AttributeNames=names)["Attributes"]
        visible, in_flight, delayed = (int(counts[name]) for name in names)
        return visible, in_flight, delayed


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with running_endpoint(seed=1) as endpoint:
        yield endpoint


@pytest.fixture(scope="module", params=[OURS, f"{OURS}-lean", EMBEDDED])
def sqs(request: pytest.FixtureRequest) -> Sqs:
    if request.param == EMBEDDED:
        return Sqs(EMBEDDED, _client(request.getfixturevalue("stack").endpoint_url))
    client = _client(request.getfixturevalue("endpoint").url)
    return Sqs(OURS, client if request.param == OURS else _lean(client))


@pytest.fixture
def ours(endpoint: Endpoint) -> Iterator[Sqs]:
    """Yield our endpoint only; clear its rules afterwards."""
    yield Sqs(OURS, _client(endpoint.url))
    endpoint.clear_faults()
    endpoint.configure(in_flight=120_000, refuse_stale_handles=False)


def code_of(call: Callable[..., Any], *arguments: Any, **named: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(*arguments, **named)
    return str(caught.value.response["Error"]["Code"])


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    began = time.monotonic()
    result = call()
    return time.monotonic() - began, result


# Visibility


def test_a_received_message_is_hidden_and_comes_back_when_its_timeout_ends(sqs: Sqs) -> None:
    queue = sqs.queue()
    sent = sqs.send(queue)
    began = time.monotonic()
    first = sqs.receive_one(queue, VisibilityTimeout=3)
    assert sqs.receive(queue) == []
    second = sqs.receive_one(queue, WaitTimeSeconds=20)

    assert 2.5 < time.monotonic() - began < 15
    assert sent["MessageId"] == first["MessageId"] == second["MessageId"]
    assert first["ReceiptHandle"] != second["ReceiptHandle"]
    assert first["Body"] == second["Body"] == "a login"
    attributes = first["Attributes"], second["Attributes"]
    assert [a["ApproximateReceiveCount"] for a in attributes] == ["1", "2"]
    assert attributes[0]["SentTimestamp"] == attributes[1]["SentTimestamp"]
    assert attributes[0]["ApproximateFirstReceiveTimestamp"] == attributes[1]["ApproximateFirstReceiveTimestamp"]
    assert abs(int(attributes[0]["SentTimestamp"]) / 1000 - time.time()) < 60
    assert str(UUID(sent["MessageId"])) == sent["MessageId"]


def test_the_queue_s_own_timeout_is_taken_where_the_receive_names_none(sqs: Sqs) -> None:
    queue = sqs.queue(VisibilityTimeout="1")
    sqs.send(queue)
    began = time.monotonic()
    sqs.receive_one(queue)
    sqs.receive_one(queue, WaitTimeSeconds=20)
    assert 0.5 < time.monotonic() - began < 15


def test_a_timeout_of_nothing_gives_the_message_back_at_once(sqs: Sqs) -> None:
    queue = sqs.queue()
    sqs.send(queue)
    sqs.hide(queue, sqs.receive_one(queue), 0)
    again = sqs.receive_one(queue, VisibilityTimeout=0)
    assert again["Attributes"]["ApproximateReceiveCount"] == "2"
    assert sqs.receive_one(queue)["Attributes"]["ApproximateReceiveCount"] == "3"


def test_an_extension_keeps_a_message_hidden_past_its_first_timeout(sqs: Sqs) -> None:
    queue = sqs.queue()
    sqs.send(queue)
    message = sqs.receive_one(queue, VisibilityTimeout=2)
    sqs.hide(queue, message, 30)
    assert sqs.receive(queue, WaitTimeSeconds=3) == []
    sqs.delete(queue, message)
    assert sqs.depth(queue) == (0, 0, 0)


def test_a_long_poll_wakes_when_a_message_is_handed_back(sqs: Sqs) -> None:
    queue = sqs.queue()
    sqs.send(queue)
    message = sqs.receive_one(queue)
    back = threading.Timer(0.4, sqs.hide, (queue, message, 0))
    began = time.monotonic()
    back.start()
    again = sqs.receive_one(queue, WaitTimeSeconds=20)
    waited = time.monotonic() - began
    back.join()
    assert again["MessageId"] == message["MessageId"]
    assert 0.3 < waited < 15


def test_a_long_poll_wakes_on_arrival(sqs: Sqs) -> None:
    queue = sqs.queue()
    arrival = threading.Timer(0.4, sqs.send, (queue,))
    began = time.monotonic()
    arrival.start()
    messages = sqs.receive(queue, WaitTimeSeconds=20)
    waited = time.monotonic() - began
    arrival.join()
    assert len(messages) == 1
    assert 0.3 < waited < 15


def test_a_long_poll_of_an_empty_queue_ends_empty_after_its_time(sqs: Sqs) -> None:
    queue = sqs.queue()
    waited, messages = seconds(lambda: sqs.receive(queue, WaitTimeSeconds=1))
    assert messages == []
    assert 0.9 < waited < 15


def test_the_counts_tell_visible_in_flight_and_delayed_messages(sqs: Sqs) -> None:
    queue = sqs.queue()
    for _ in range(3):
        sqs.send(queue)
    sqs.send(queue, DelaySeconds=60)
    assert sqs.depth(queue) == (3, 0, 1)
    sqs.receive(queue, most=2)
    assert sqs.depth(queue) == (1, 2, 1)


def test_a_delayed_message_comes_when_its_delay_ends(sqs: Sqs) -> None:
    queue = sqs.queue()
    began = time.monotonic()
    sqs.send(queue, DelaySeconds=3)
    assert sqs.receive(queue) == []
    messages = sqs.receive(queue, WaitTimeSeconds=20)
    assert len(messages) == 1
    assert 2.5 < time.monotonic() - began < 15


def test_a_receive_gives_ten_messages_at_most_and_one_unless_asked(sqs: Sqs) -> None:
    queue = sqs.queue()
    for begin in (0, 10):
        entries = [{"Id": str(i), "MessageBody": f"login {i}"} for i in range(begin, begin + 10)]
        assert len(sqs.client.send_message_batch(QueueUrl=queue, Entries=entries)["Successful"]) == 10
    assert len(sqs.client.receive_message(QueueUrl=queue)["Messages"]) == 1
    received = sqs.receive(queue) + sqs.receive(queue)
    assert len({message["Body"] for message in received}) == 19
    for number in (0, 11):
        assert code_of(sqs.receive, queue, most=number) == "InvalidParameterValue"


# Receipt handles


def test_an_old_receipt_handle_deletes_nothing(sqs: Sqs) -> None:
    queue = sqs.queue()
    sqs.send(queue)
    old = sqs.receive_one(queue, VisibilityTimeout=0)
    new = sqs.receive_one(queue)
    if sqs.kind == OURS:
        sqs.delete(queue, old)
    else:
        # SQS succeeds: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_DeleteMessage.html
        assert code_of(sqs.delete, queue, old) == "ReceiptHandleIsInvalid"
    assert sqs.depth(queue) == (0, 1, 0)
    sqs.delete(queue, new)
    assert sqs.depth(queue) == (0, 0, 0)


def test_deleting_again_changes_nothing(sqs: Sqs) -> None:
    queue = sqs.queue()
    sqs.send(queue)
    message = sqs.receive_one(queue)
    sqs.delete(queue, message)
    if sqs.kind == OURS:
        sqs.delete(queue, message)
    else:
        assert code_of(sqs.delete, queue, message) == "ReceiptHandleIsInvalid"


def test_a_message_may_be_deleted_after_its_timeout_if_no_one_received_it_since(sqs: Sqs) -> None:
    queue = sqs.queue()
    sqs.send(queue)
    sqs.delete(queue, sqs.receive_one(queue, VisibilityTimeout=0))
    assert sqs.depth(queue) == (0, 0, 0)


def test_a_lost_lease_cannot_be_extended(sqs: Sqs) -> None:
    queue = sqs.queue()
    sqs.send(queue)
    old = sqs.receive_one(queue, VisibilityTimeout=0)
    if sqs.kind == OURS:
        assert code_of(sqs.hide, queue, old, 30) == "AWS.SimpleQueueService.MessageNotInflight"
    new = sqs.receive_one(queue)
    refusals = {code_of(sqs.hide, queue, old, 30)}
    sqs.delete(queue, new)
    refusals.add(code_of(sqs.hide, queue, new, 30))
    # SQS reports that the message "does not exist or is not available for visibility timeout change".
    assert refusals == {"InvalidParameterValue" if sqs.kind == OURS else "ReceiptHandleIsInvalid"}


def test_a_handle_that_the_queue_never_gave_is_refused(sqs: Sqs) -> None:
    queue = sqs.queue()
    for call in (sqs.delete, partial(sqs.hide, seconds=5)):
        with pytest.raises(sqs.client.exceptions.ReceiptHandleIsInvalid):
            call(queue, {"ReceiptHandle": "no-such-handle"})


@pytest.mark.parametrize("action", ["delete_message_batch", "change_message_visibility_batch"])
def test_bad_handles_in_a_batch_fail_alone(sqs: Sqs, action: str) -> None:
    queue = sqs.queue()
    sqs.send(queue)
    more = {"VisibilityTimeout": 60} if "visibility" in action else {}
    handles = {"good": sqs.receive_one(queue)["ReceiptHandle"], "bad": "no-such-handle"}
    entries = [{"Id": name, "ReceiptHandle": handle, **more} for name, handle in handles.items()]
    answer = getattr(sqs.client, action)(QueueUrl=queue, Entries=entries)
    assert [entry["Id"] for entry in answer["Successful"]] == ["good"]
    (failed,) = answer["Failed"]
    assert (failed["Id"], failed["Code"], failed["SenderFault"]) == ("bad", "ReceiptHandleIsInvalid", True)
    # SQS leaves out an empty list; the embedded endpoint sends it.
    bad_alone = getattr(sqs.client, action)(QueueUrl=queue, Entries=entries[1:])
    assert bad_alone.get("Successful") == (None if sqs.kind == OURS else [])


# Dead letters


def test_a_message_received_too_often_moves_to_the_dead_letter_queue_as_it_is(sqs: Sqs) -> None:
    queue, dead_letters = sqs.with_dead_letters(2)
    own = {"source": {"DataType": "String", "StringValue": "test"}}
    sent = sqs.send(queue, MessageAttributes=own)
    last = [sqs.receive_one(queue, VisibilityTimeout=0) for _ in range(2)][-1]
    assert sqs.receive(queue) == []
    assert sqs.depth(queue) == (0, 0, 0)
    assert sqs.depth(dead_letters) == (1, 0, 0)

    dead = sqs.receive_one(dead_letters)
    assert dead["MessageId"] == sent["MessageId"]
    assert dead["Body"] == last["Body"]
    assert dead["MessageAttributes"] == own
    assert dead["Attributes"]["SentTimestamp"] == last["Attributes"]["SentTimestamp"]
    assert dead["Attributes"]["ApproximateReceiveCount"] == "3"
    assert dead["Attributes"]["DeadLetterQueueSourceArn"] == sqs.attribute(queue, "QueueArn")
    sqs.delete(dead_letters, dead)


def test_a_long_poll_of_the_dead_letter_queue_wakes_when_a_message_moves(sqs: Sqs) -> None:
    queue, dead_letters = sqs.with_dead_letters(1)
    sqs.send(queue)
    sqs.receive_one(queue, VisibilityTimeout=0)
    move = threading.Timer(0.3, sqs.receive, (queue,))
    move.start()
    waited, messages = seconds(lambda: sqs.receive(dead_letters, WaitTimeSeconds=20))
    move.join()
    assert len(messages) == 1
    assert waited < 15


def test_a_redrive_policy_must_name_a_queue_and_a_sensible_count(sqs: Sqs) -> None:
    arn = sqs.attribute(sqs.queue(), "QueueArn")
    for policy in ({"deadLetterTargetArn": arn, "maxReceiveCount": 0}, {"deadLetterTargetArn": f"{arn}-not"}):
        assert code_of(sqs.queue, RedrivePolicy=policy) in ("InvalidAttributeValue", "InvalidParameterValue")


# FIFO


def _send_in_groups(sqs: Sqs, queue: str, bodies: str) -> None:
    """Send "a1 b1 a2": bodies whose first letter is their group."""
    for body in bodies.split():
        sqs.send(queue, body, MessageGroupId=body[0], MessageDeduplicationId=body)


def test_a_group_keeps_its_order_and_is_locked_while_one_of_it_is_in_flight(sqs: Sqs) -> None:
    queue = sqs.fifo()
    _send_in_groups(sqs, queue, "a1 a2 b1 a3")
    first = sqs.receive_one(queue, most=1)
    assert first["Body"] == "a1"
    other = sqs.receive_one(queue)
    assert other["Body"] == "b1"
    assert sqs.receive(queue) == []
    sqs.delete(queue, first)
    assert [message["Body"] for message in sqs.receive(queue)] == ["a2", "a3"]
    attributes = first["Attributes"]
    assert (attributes["MessageGroupId"], attributes["MessageDeduplicationId"]) == ("a", "a1")
    assert attributes["SequenceNumber"] < other["Attributes"]["SequenceNumber"]


def test_a_message_handed_back_is_the_first_of_its_group_again(sqs: Sqs) -> None:
    queue = sqs.fifo()
    _send_in_groups(sqs, queue, "a1 a2")
    sqs.hide(queue, sqs.receive_one(queue, most=1), 0)
    assert [message["Body"] for message in sqs.receive(queue)] == ["a1", "a2"]


def test_a_group_is_unlocked_when_the_timeout_ends(sqs: Sqs) -> None:
    queue = sqs.fifo()
    _send_in_groups(sqs, queue, "a1 a2")
    began = time.monotonic()
    sqs.receive_one(queue, most=1, VisibilityTimeout=1)
    messages = sqs.receive(queue, WaitTimeSeconds=20)
    assert [message["Body"] for message in messages] == ["a1", "a2"]
    assert 0.5 < time.monotonic() - began < 15


def test_a_dead_letter_unlocks_its_group(sqs: Sqs) -> None:
    queue, dead_letters = sqs.with_dead_letters(1, fifo=True)
    _send_in_groups(sqs, queue, "a1 a2")
    sqs.receive_one(queue, most=1, VisibilityTimeout=0)
    assert sqs.receive_one(queue)["Body"] == "a2"
    assert sqs.receive_one(dead_letters)["Body"] == "a1"


def test_a_deduplication_id_is_taken_once_even_after_the_delete(sqs: Sqs) -> None:
    queue = sqs.fifo()
    sent = sqs.send(queue, "one", MessageGroupId="a", MessageDeduplicationId="same")
    sqs.delete(queue, sqs.receive_one(queue))
    again = sqs.send(queue, "two", MessageGroupId="b", MessageDeduplicationId="same")
    assert again["MessageId"] == sent["MessageId"]
    assert again["SequenceNumber"] == sent["SequenceNumber"]
    assert sqs.receive(queue) == []


def test_a_queue_may_tell_messages_apart_by_their_bodies(sqs: Sqs) -> None:
    queue = sqs.fifo(ContentBasedDeduplication="true")
    for body in ("one", "two", "one"):
        sqs.send(queue, body, MessageGroupId="a")
    assert [message["Body"] for message in sqs.receive(queue)] == ["one", "two"]


def test_a_fifo_queue_refuses_what_would_have_no_place(sqs: Sqs) -> None:
    queue = sqs.fifo()
    assert code_of(sqs.send, queue) == "MissingParameter"
    assert code_of(sqs.send, queue, MessageGroupId="a") == "InvalidParameterValue"
    assert code_of(sqs.send, queue, MessageGroupId="a", MessageDeduplicationId="1", DelaySeconds=5) == (
        "InvalidParameterValue"
    )


# Contents


def test_message_attributes_make_the_round_trip(sqs: Sqs) -> None:
    queue = sqs.queue()
    attributes = {
        "replay.of": {"DataType": "String", "StringValue": "424cdd21-063a-43a7-b91b-7ca1a833afae"},
        "replay.count": {"DataType": "Number.int", "StringValue": "2"},
        "seal": {"DataType": "Binary", "BinaryValue": b"\x00\xff\x10"},
    }
    sent = sqs.send(queue, MessageAttributes=attributes)
    asked = {"all": ["All"], "prefix": ["replay.*"], "one": ["seal"], "none": []}
    received = {
        name: sqs.receive_one(queue, VisibilityTimeout=0, MessageAttributeNames=names) for name, names in asked.items()
    }
    assert received["all"]["MessageAttributes"] == attributes
    assert received["all"]["MD5OfMessageAttributes"] == sent["MD5OfMessageAttributes"]
    assert set(received["prefix"]["MessageAttributes"]) == {"replay.of", "replay.count"}
    assert set(received["one"]["MessageAttributes"]) == {"seal"}
    assert received["one"]["MD5OfMessageAttributes"] != sent["MD5OfMessageAttributes"]
    assert "MessageAttributes" not in received["none"]


def test_the_digests_are_those_of_sqs(sqs: Sqs) -> None:
    queue = sqs.queue()
    body = "Zürich, 東京 🗼"
    # A digest from SQS itself, as recorded in moto's tests.
    attributes = {"timestamp": {"DataType": "Number", "StringValue": "1493147359900"}}
    sent = sqs.send(queue, body, MessageAttributes=attributes)
    received = sqs.receive_one(queue)
    digest = md5(body.encode(), usedforsecurity=False).hexdigest()
    assert sent["MD5OfMessageBody"] == received["MD5OfBody"] == digest
    assert sent["MD5OfMessageAttributes"] == received["MD5OfMessageAttributes"] == "235c5c510d26fb653d073faed50ae77c"


def test_only_the_system_attributes_asked_for_are_given(sqs: Sqs) -> None:
    queue = sqs.queue()
    sqs.send(queue)
    names = ["SentTimestamp", "ApproximateReceiveCount"]
    some = sqs.receive_one(queue, VisibilityTimeout=0, MessageSystemAttributeNames=names)
    assert set(some["Attributes"]) == set(names)
    none = sqs.receive_one(queue, MessageSystemAttributeNames=[])
    assert "Attributes" not in none


def test_a_body_may_be_one_mebibyte_and_no_more(sqs: Sqs) -> None:
    queue = sqs.queue()
    body = "é" * (MEBIBYTE // 2)
    sqs.send(queue, body)
    assert sqs.receive_one(queue)["Body"] == body
    assert code_of(sqs.send, queue, body + "x") == "InvalidParameterValue"
    entries = [{"Id": name, "MessageBody": body} for name in ("a", "b")]
    with pytest.raises(sqs.client.exceptions.BatchRequestTooLong):
        sqs.client.send_message_batch(QueueUrl=queue, Entries=entries)


def test_characters_that_xml_has_not_are_refused_in_a_batch_one_by_one(sqs: Sqs) -> None:
    queue = sqs.queue()
    with pytest.raises(sqs.client.exceptions.InvalidMessageContents):
        sqs.send(queue, "a\x00b")
    bodies = {"good": "tab\tand newline\n", "bad": "bell\x07", "empty": ""}
    answer = sqs.client.send_message_batch(
        QueueUrl=queue, Entries=[{"Id": name, "MessageBody": body} for name, body in bodies.items()]
    )
    assert [entry["Id"] for entry in answer["Successful"]] == ["good"]
    assert {entry["Id"]: entry["Code"] for entry in answer["Failed"]} == {
        "bad": "InvalidMessageContents",
        "empty": "MissingParameter",
    }
    assert all(entry["SenderFault"] for entry in answer["Failed"])


# Batches


@pytest.mark.parametrize(
    ("ids", "refusal"),
    [
        ([], "EmptyBatchRequest"),
        (range(11), "TooManyEntriesInBatchRequest"),
        (["same", "same"], "BatchEntryIdsNotDistinct"),
        (["not a good id"], "InvalidBatchEntryId"),
    ],
)
def test_a_batch_that_breaks_the_rules_is_refused_as_a_whole(sqs: Sqs, ids: Any, refusal: str) -> None:
    queue = sqs.queue()
    names = [str(i) for i in ids]
    handles = [{"Id": name, "ReceiptHandle": "handle"} for name in names]
    calls: dict[str, list[dict[str, Any]]] = {
        "send_message_batch": [{"Id": name, "MessageBody": "body"} for name in names],
        "delete_message_batch": handles,
        "change_message_visibility_batch": [{**entry, "VisibilityTimeout": 1} for entry in handles],
    }
    for call, entries in calls.items():
        with pytest.raises(sqs.client.exceptions.from_code(refusal)) as caught:
            getattr(sqs.client, call)(QueueUrl=queue, Entries=entries)
        assert caught.value.response["Error"]["Code"] == f"AWS.SimpleQueueService.{refusal}"
    assert sqs.depth(queue) == (0, 0, 0)


# Queues


def test_a_queue_that_does_not_exist_is_told_by_class_and_code(sqs: Sqs) -> None:
    queue = sqs.queue()
    sqs.client.delete_queue(QueueUrl=queue)
    entries = [{"Id": "1", "ReceiptHandle": "handle"}]
    calls: dict[str, dict[str, Any]] = {
        "get_queue_url": {"QueueName": queue.rpartition("/")[2]},
        "get_queue_attributes": {"QueueUrl": queue, "AttributeNames": ["All"]},
        "send_message": {"QueueUrl": queue, "MessageBody": "body"},
        "receive_message": {"QueueUrl": queue, "WaitTimeSeconds": 1},
        "delete_message_batch": {"QueueUrl": queue, "Entries": entries},
        "purge_queue": {"QueueUrl": queue},
    }
    for call, parameters in calls.items():
        with pytest.raises(sqs.client.exceptions.QueueDoesNotExist) as caught:
            getattr(sqs.client, call)(**parameters)
        assert caught.value.response["Error"]["Code"] == "AWS.SimpleQueueService.NonExistentQueue"
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_a_queue_is_found_listed_and_known_by_its_attributes(sqs: Sqs) -> None:
    queue, dead_letters = sqs.with_dead_letters(5)
    name = queue.rpartition("/")[2]
    assert sqs.client.get_queue_url(QueueName=name)["QueueUrl"] == queue
    assert sqs.client.list_queues(QueueNamePrefix=name)["QueueUrls"] == [queue]
    assert sqs.client.create_queue(QueueName=name)["QueueUrl"] == queue
    with pytest.raises(sqs.client.exceptions.QueueNameExists):
        sqs.client.create_queue(QueueName=name, Attributes={"VisibilityTimeout": "31"})

    sqs.client.set_queue_attributes(QueueUrl=queue, Attributes={"VisibilityTimeout": "77"})
    attributes = sqs.client.get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])["Attributes"]
    assert attributes["QueueArn"] == f"arn:aws:sqs:us-east-1:000000000000:{name}"
    assert attributes["VisibilityTimeout"] == "77"
    assert attributes["MessageRetentionPeriod"] == "345600"
    policy = json.loads(attributes["RedrivePolicy"])
    assert policy["deadLetterTargetArn"] == sqs.attribute(dead_letters, "QueueArn")
    assert int(policy["maxReceiveCount"]) == 5
    assert "FifoQueue" not in attributes
    assert sqs.attribute(sqs.fifo(), "FifoQueue") == "true"
    with pytest.raises(sqs.client.exceptions.InvalidAttributeValue):
        sqs.client.set_queue_attributes(QueueUrl=queue, Attributes={"VisibilityTimeout": "43201"})


def test_a_purge_leaves_nothing(sqs: Sqs) -> None:
    queue = sqs.queue()
    for _ in range(3):
        sqs.send(queue)
    sqs.receive(queue, most=1)
    sqs.client.purge_queue(QueueUrl=queue)
    assert sqs.depth(queue) == (0, 0, 0)
    assert sqs.receive(queue) == []


# Only ours: SQS's limits


def test_ours_can_refuse_stale_handles_as_the_embedded_one_does(endpoint: Endpoint, ours: Sqs) -> None:
    endpoint.configure(refuse_stale_handles=True)
    queue = ours.queue()
    ours.send(queue)
    old = ours.receive_one(queue, VisibilityTimeout=0)
    ours.receive_one(queue)
    assert code_of(ours.delete, queue, old) == "ReceiptHandleIsInvalid"


def test_no_lease_lasts_longer_than_twelve_hours(endpoint: Endpoint, ours: Sqs) -> None:
    queue = ours.queue()
    ours.send(queue)
    message = ours.receive_one(queue, VisibilityTimeout=43_200)
    endpoint.advance(40_000)
    assert code_of(ours.hide, queue, message, 3_300) == "InvalidParameterValue"
    ours.hide(queue, message, 3_100)
    endpoint.advance(3_050)
    assert ours.receive(queue) == []
    endpoint.advance(60)
    assert len(ours.receive(queue)) == 1


def test_messages_are_kept_for_the_retention_period_only(endpoint: Endpoint, ours: Sqs) -> None:
    queue = ours.queue(MessageRetentionPeriod="60")
    endpoint.send(queue, ["old"] * 3)
    ours.receive(queue, most=1, VisibilityTimeout=600)
    endpoint.advance(40)
    endpoint.send(queue, ["young"])
    endpoint.advance(30)
    assert [message["Body"] for message in ours.receive(queue)] == ["young"]
    assert Counter(fate.state for fate in endpoint.fates(queue).values()) == {"expired": 3, "in flight": 1}


def test_a_dead_letter_keeps_its_age_in_a_standard_queue_alone(endpoint: Endpoint, ours: Sqs) -> None:
    for fifo in (False, True):
        queue, dead_letters = ours.with_dead_letters(1, fifo=fifo)
        ours.client.set_queue_attributes(QueueUrl=dead_letters, Attributes={"MessageRetentionPeriod": "60"})
        endpoint.send(queue, ["old"])
        endpoint.advance(40)
        ours.receive(queue, VisibilityTimeout=0)
        assert ours.receive(queue) == []
        endpoint.advance(30)
        assert ours.depth(dead_letters)[0] == (1 if fifo else 0)


def test_a_deduplication_id_is_free_again_after_five_minutes(endpoint: Endpoint, ours: Sqs) -> None:
    queue = ours.fifo()
    send = partial(ours.send, queue, MessageGroupId="a", MessageDeduplicationId="same")
    first = send()["MessageId"]
    endpoint.advance(280)
    assert send()["MessageId"] == first
    endpoint.advance(21)
    assert send()["MessageId"] != first


def test_an_expired_handle_of_a_fifo_queue_deletes_nothing(ours: Sqs) -> None:
    queue = ours.fifo()
    _send_in_groups(ours, queue, "a1")
    message = ours.receive_one(queue, VisibilityTimeout=0)
    assert code_of(ours.delete, queue, message) == "InvalidParameterValue"
    assert ours.depth(queue) == (1, 0, 0)


def test_a_queue_is_purged_once_a_minute(endpoint: Endpoint, ours: Sqs) -> None:
    queue = ours.queue()
    purge = partial(ours.client.purge_queue, QueueUrl=queue)
    purge()
    assert code_of(purge) == "AWS.SimpleQueueService.PurgeQueueInProgress"
    endpoint.advance(61)
    purge()


def test_past_the_cap_a_short_receive_is_refused_and_a_long_poll_is_silently_empty(
    endpoint: Endpoint, ours: Sqs
) -> None:
    endpoint.configure(in_flight=15)
    queue = ours.queue()
    endpoint.send(queue, [f"login {i}" for i in range(20)])
    held = ours.receive(queue) + ours.receive(queue)
    assert len(held) == 15
    with pytest.raises(ours.client.exceptions.OverLimit):
        ours.receive(queue)
    waited, nothing = seconds(lambda: ours.receive(queue, WaitTimeSeconds=1))
    assert nothing == []
    assert waited > 0.9
    assert ours.depth(queue) == (5, 15, 0)

    room = threading.Timer(0.3, ours.delete, (queue, held[0]))
    room.start()
    assert len(ours.receive(queue, WaitTimeSeconds=10)) == 1
    room.join()
    endpoint.advance(31)
    assert len(ours.receive(queue)) == 10


def test_the_real_cap_is_reached_by_holding_messages_as_another_consumer_would(endpoint: Endpoint, ours: Sqs) -> None:
    queue = ours.queue()
    endpoint.send(queue, ["login"] * 120_010)
    assert endpoint.hold(queue, 120_000, seconds=60) == 120_000
    assert ours.receive(queue, WaitTimeSeconds=1) == []
    assert ours.depth(queue) == (10, 120_000, 0)
    assert code_of(ours.receive, queue) == "OverLimit"
    endpoint.advance(61)
    assert ours.depth(queue) == (120_010, 0, 0)


def test_a_fifo_queue_at_its_cap_is_silently_empty(endpoint: Endpoint, ours: Sqs) -> None:
    endpoint.configure(in_flight=2)
    queue = ours.fifo()
    endpoint.send(queue, ["login"] * 4, groups=4)
    assert len(ours.receive(queue)) == 2
    assert ours.receive(queue) == []


def test_a_poll_whose_client_is_gone_takes_no_message(endpoint: Endpoint, ours: Sqs) -> None:
    queue = ours.queue()
    impatient = _client(endpoint.url, read_timeout=0.3)
    with pytest.raises(BotoCoreError):
        impatient.receive_message(QueueUrl=queue, WaitTimeSeconds=20)
    impatient.close()
    eventually(lambda: endpoint.stats()["long_polls"] == 0, "the endpoint has seen that no one waits")
    ours.send(queue)
    assert ours.depth(queue) == (1, 0, 0)


# Only ours: injected errors


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("internal_error", 500, "InternalFailure"),
        ("unavailable", 503, "ServiceUnavailable"),
        ("throttle", 400, "RequestThrottled"),
    ],
)
def test_a_call_is_answered_with_an_error_as_often_as_told(
    endpoint: Endpoint, ours: Sqs, kind: str, status: int, code: str
) -> None:
    queue = ours.queue()
    endpoint.add_fault(kind, "SendMessage", times=2, skip=1)
    ours.send(queue)
    for _ in range(2):
        with pytest.raises(ClientError) as caught:
            ours.send(queue)
        assert caught.value.response["Error"]["Code"] == code
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    ours.send(queue)
    assert ours.depth(queue) == (2, 0, 0)
    (rule,) = endpoint.clear_faults()
    assert rule["fired"] == 2


def test_botocore_tries_the_injected_errors_again(endpoint: Endpoint, ours: Sqs) -> None:
    queue = ours.queue()
    patient = _client(endpoint.url, retries={"mode": "standard", "total_max_attempts": 2})
    throttling = {"kind": "error", "status": 400, "code": "ThrottlingException"}
    for rule in ({"kind": "internal_error"}, {"kind": "throttle"}, {"kind": "drop"}, throttling):
        endpoint.add_fault(**rule, action="SendMessage", times=1)
        answer = patient.send_message(QueueUrl=queue, MessageBody="a login")
        assert answer["ResponseMetadata"]["RetryAttempts"] == 1
    assert ours.depth(queue) == (4, 0, 0)


@pytest.mark.parametrize("effect", [False, True])
def test_a_connection_is_dropped_before_or_after_the_call_took_effect(
    endpoint: Endpoint, ours: Sqs, effect: bool
) -> None:
    queue = ours.queue()
    endpoint.add_fault("drop", "SendMessage", effect=effect, times=1)
    with pytest.raises(ConnectionClosedError):
        ours.send(queue)
    assert ours.depth(queue) == (1 if effect else 0, 0, 0)


def test_an_answer_may_be_late_before_or_after_the_call_took_effect(endpoint: Endpoint, ours: Sqs) -> None:
    queue = ours.queue()
    for effect in (False, True):
        endpoint.add_fault("delay", "SendMessage", seconds=2, effect=effect, times=1)
        with ThreadPoolExecutor(1) as pool:
            sent = pool.submit(ours.send, queue)
            eventually(lambda: endpoint.stats()["faults"][-1]["fired"] == 1, "the call has come")
            assert ours.depth(queue)[0] == (2 if effect else 0)
            sent.result()
    assert ours.depth(queue)[0] == 2


@pytest.mark.parametrize("effect", [False, True])
def test_single_entries_fail_in_a_success(endpoint: Endpoint, ours: Sqs, effect: bool) -> None:
    queue = ours.queue()
    endpoint.send(queue, [f"login {i}" for i in range(4)])
    endpoint.add_fault(
        "fail_entry", "DeleteMessageBatch", times=1, skip=2, effect=effect, code="InternalError", sender_fault=False
    )
    entries = [
        {"Id": str(i), "ReceiptHandle": message["ReceiptHandle"]} for i, message in enumerate(ours.receive(queue))
    ]
    answer = ours.client.delete_message_batch(QueueUrl=queue, Entries=entries)
    assert [entry["Id"] for entry in answer["Successful"]] == ["0", "1", "3"]
    (failed,) = answer["Failed"]
    assert (failed["Id"], failed["Code"], failed["SenderFault"]) == ("2", "InternalError", False)
    assert ours.depth(queue) == (0, 0 if effect else 1, 0)


def test_a_message_is_handed_to_two_receivers_at_once(endpoint: Endpoint, ours: Sqs) -> None:
    queue = ours.queue()
    ours.send(queue)
    endpoint.add_fault("duplicate", "ReceiveMessage", times=1)
    first = ours.receive_one(queue)
    ours.delete(queue, first)
    second = ours.receive_one(queue)
    assert first["MessageId"] == second["MessageId"]
    assert ours.receive(queue) == []
    ours.delete(queue, first)
    assert ours.depth(queue) == (0, 1, 0)
    ours.delete(queue, second)
    assert ours.depth(queue) == (0, 0, 0)


@pytest.mark.parametrize("action", ["DeleteMessage", "DeleteMessageBatch"])
def test_a_deleted_message_is_delivered_once_more(endpoint: Endpoint, ours: Sqs, action: str) -> None:
    queue = ours.queue()
    ours.send(queue)
    endpoint.add_fault("undelete", action, times=1, seconds=20)
    message = ours.receive_one(queue, VisibilityTimeout=600)
    if action == "DeleteMessage":
        ours.delete(queue, message)
    else:
        entries = [{"Id": "1", "ReceiptHandle": message["ReceiptHandle"]}]
        assert "Failed" not in ours.client.delete_message_batch(QueueUrl=queue, Entries=entries)
    assert ours.receive(queue) == []
    endpoint.advance(21)
    again = ours.receive_one(queue)
    assert again["MessageId"] == message["MessageId"]
    ours.delete(queue, again)
    assert ours.depth(queue) == (0, 0, 0)


def test_a_body_is_tampered_with_and_its_digest_is_not(endpoint: Endpoint, ours: Sqs) -> None:
    queue = ours.queue()
    endpoint.send(queue, ['{"user_id": "u"}'])
    endpoint.add_fault("tamper", "ReceiveMessage", times=1)
    damaged = ours.receive_one(queue, VisibilityTimeout=0)
    intact = ours.receive_one(queue)
    assert damaged["MD5OfBody"] == intact["MD5OfBody"]
    assert damaged["Body"] != intact["Body"] == '{"user_id": "u"}'


def test_the_same_seed_makes_the_same_faults(endpoint: Endpoint, ours: Sqs) -> None:
    queue = ours.queue()
    endpoint.add_fault("internal_error", "SendMessage", probability=0.5)

    def outcomes() -> list[bool]:
        endpoint.seed(7)
        return [_succeeds(partial(ours.send, queue)) for _ in range(30)]

    first = outcomes()
    assert first == outcomes()
    assert {True, False} == set(first)


def _succeeds(call: Callable[[], Any]) -> bool:
    try:
        call()
    except (ClientError, Refusal):
        return False
    return True


def test_a_fault_may_be_of_one_queue_and_is_checked(endpoint: Endpoint, ours: Sqs) -> None:
    struck, spared = ours.queue(), ours.queue()
    endpoint.add_fault("throttle", queue=struck.rpartition("/")[2])
    assert code_of(ours.send, struck) == "RequestThrottled"
    ours.send(spared)
    for rule in ({"kind": "no such"}, {"kind": "drop", "chance": 1}):
        with pytest.raises(EndpointError, match="no such fault"):
            endpoint.add_fault(**rule)


# The fates, and the process


def test_the_counts_balance_whatever_happens(endpoint: Endpoint, ours: Sqs) -> None:
    queue, dead_letters = ours.with_dead_letters(8)
    endpoint.send_samples(queue, 2_000, seed=5)
    sent = set(endpoint.fates(queue))
    for rule in (
        {"kind": "duplicate", "action": "ReceiveMessage"},
        {"kind": "undelete", "action": "DeleteMessageBatch", "seconds": 5},
        {"kind": "fail_entry", "action": "DeleteMessageBatch"},
        {"kind": "drop", "action": "ReceiveMessage", "effect": True},
        {"kind": "drop", "action": "DeleteMessageBatch", "effect": True},
        {"kind": "internal_error"},
    ):
        endpoint.add_fault(**rule, probability=0.03)
    seen: set[str] = set()

    def consume() -> None:
        while True:
            try:
                messages = ours.receive(queue, VisibilityTimeout=30)
                if not messages:
                    return
                seen.update(message["MessageId"] for message in messages)
                entries = [{"Id": str(i), "ReceiptHandle": m["ReceiptHandle"]} for i, m in enumerate(messages)]
                ours.client.delete_message_batch(QueueUrl=queue, Entries=entries)
            except (BotoCoreError, ClientError):
                continue

    deadline = time.monotonic() + 90
    while sum(ours.depth(queue)) and time.monotonic() < deadline:
        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(consume) for _ in range(4)]:
                done.result()
        endpoint.clear_faults()
        endpoint.advance(31)

    fates = endpoint.fates(queue)
    assert set(fates) == sent
    assert Counter(fate.state for fate in fates.values()) == {"deleted": 2_000}
    assert seen == sent
    assert endpoint.fates(dead_letters) == {}
    counts = endpoint.stats()["queues"][queue.rpartition("/")[2]]
    assert counts["sent"] == counts["deleted"] == 2_000
    assert counts["delivered"] == sum(fate.receives for fate in fates.values()) > 2_000


def test_sample_events_are_made_on_the_spot(endpoint: Endpoint, ours: Sqs) -> None:
    queue = ours.queue()
    endpoint.send_samples(queue, 10, seed=3)
    assert sorted(message["Body"] for message in ours.receive(queue)) == sorted(sample_bodies(10, seed=3))


def test_no_walk_through_the_states_loses_or_doubles_a_message() -> None:
    seed = random.randrange(1_000_000)
    chance = random.Random(seed)
    dead_letters = Queue("dead", "arn:dead", Limits(), 10**6)
    queue = Queue("queue", "arn:queue", Limits(in_flight=40), 10**6)
    queue.redrive = Redrive(dead_letters, 6)
    now = 1_000.0
    held: dict[str, str] = {}
    for number in range(4_000):
        now += chance.choice((0, 0, 0.5, 3))
        match chance.choice(("send", "receive", "receive", "delete", "change", "copy")):
            case "send":
                queue.add(Message(f"m{number}", "body", "digest", now), now, chance.choice((0, 0, 4)))
            case "receive":
                messages = queue.receive(now, chance.randint(1, 10), chance.choice((0, 2, 9)))
                assert len({m.message_id for m in messages}) == len(messages)
                assert all(m.state is State.IN_FLIGHT for m in messages)
                held |= {m.message_id: queue.handle(m) for m in messages}
            case "delete" if held:
                queue.delete(held.pop(chance.choice(list(held))), now)
            case "change" if held:
                _succeeds(partial(queue.change_visibility, chance.choice(list(held.values())), 5, now))
            case "copy":
                for message in queue.receive(now, 1, 5):
                    queue.leave_copy(message)
        states = Counter(message.state for message in queue.messages.values())
        assert (queue.visible, queue.in_flight, queue.delayed) == (
            states[State.VISIBLE],
            states[State.IN_FLIGHT],
            states[State.DELAYED],
        ), seed
        assert queue.in_flight <= 40, seed
    rest = []
    while messages := queue.receive(now := now + 100, 10, 5):
        for message in messages:
            queue.delete(queue.handle(message), now)
            rest.append(message.message_id)
    assert queue.counts["sent"] == queue.counts["deleted"] + queue.counts["dead-lettered"], seed
    assert len(rest) == len(set(rest)), seed
    assert len(dead_letters.messages) == queue.counts["dead-lettered"] > 0, seed


def _is_gone(url: str, within: float) -> bool:
    """Return True if no one listens at a URL, or stops listening within this time."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", int(url.rpartition(":")[2]))):
                return True
        time.sleep(0.02)
    return False


def test_the_process_ends_with_the_context_even_in_failure() -> None:
    urls = []

    def fail() -> None:
        with running_endpoint() as endpoint:
            urls.append(endpoint.url)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert _is_gone(urls[0], within=0.1)


def test_the_process_ends_when_the_one_that_started_it_is_killed() -> None:
    script = (
        "import time\n"
        "from loginpipe_tests.sqs_endpoint import running_endpoint\n"
        "with running_endpoint() as endpoint:\n"
        "    print(endpoint.url, flush=True)\n"
        "    time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment) as starter:
        assert starter.stdout is not None
        url = starter.stdout.readline().decode().strip()
        starter.kill()
    assert _is_gone(url, within=30)


def test_the_process_ends_on_sigterm_and_takes_faults_from_its_command_line() -> None:
    fault = json.dumps({"kind": "throttle", "action": "ListQueues"})
    with running_endpoint(fault=fault, no_fates=True) as endpoint:
        assert code_of(_client(endpoint.url).list_queues) == "RequestThrottled"
        os.kill(endpoint.pid, signal.SIGTERM)
        assert _is_gone(endpoint.url, within=30)
