"""Endpoints other than AWS's: what they support, what they leave out, and what happens to the messages."""

from collections.abc import Callable
from typing import Any

import boto3
import pytest

from loginpipe.common.settings import load_settings
from loginpipe.sqs.client import Queue, open_queue, read_depth
from loginpipe.sqs.deliveries import receive
from loginpipe_tests.commands import findings
from loginpipe_tests.conftest import Pipeline
from loginpipe_tests.wire import (
    Answer,
    Call,
    Forward,
    Tamper,
    Wire,
    cause_of_failure,
    logins,
    success,
    take,
    users,
)

LACKS_IT = "is at an endpoint that delivers messages without their SentTimestamp: upgrade it, or fix AWS_ENDPOINT_URL"


def knows_only_the_old_name(call: Call, forward: Forward) -> Answer:
    """Behave as LocalStack up to 3.4 and moto 5.0.3, which silently ignore what AWS has added since."""
    return forward(call.with_request({n: v for n, v in call.request.items() if n != "MessageSystemAttributeNames"}))


def spoiled(spoil: Callable[[dict[str, Any]], object]) -> Tamper:
    """Return a tamper that changes received messages as an endpoint other than AWS's may."""

    def tamper(call: Call, forward: Forward) -> Answer:
        messages = forward(call).content.get("Messages", [])
        for message in messages:
            spoil(message)
        return success({"Messages": messages})

    return tamper


WITHOUT_TIMES = spoiled(lambda message: message["Attributes"].pop("SentTimestamp"))


@pytest.mark.usefixtures("either_client")
def test_an_endpoint_that_knows_only_the_discontinued_name_of_the_attributes_is_worked_like_any(
    pipeline: Pipeline, wire: Wire
) -> None:
    wire.on("ReceiveMessage", knows_only_the_old_name)
    pipeline.send(logins(3))
    assert take(pipeline, 3).success
    assert users(pipeline) == ["user-0", "user-1", "user-2"]
    assert pipeline.depth() == (0, 0)


def test_aws_itself_is_not_asked_by_the_discontinued_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def asks_by_it(region: str, endpoint: str | None = None) -> bool:
        requests: list[dict[str, Any]] = []
        client = boto3.session.Session().client("sqs", region_name=region, endpoint_url=endpoint)
        monkeypatch.setattr(client, "receive_message", lambda **request: requests.append(request) or {})
        assert receive(Queue("logins", "", client), 1, visibility_seconds=1) == []
        assert "SentTimestamp" in requests[0]["MessageSystemAttributeNames"]
        return "AttributeNames" in requests[0]

    assert not any(map(asks_by_it, ("eu-central-1", "cn-north-1", "us-gov-west-1")))
    assert asks_by_it("eu-central-1", "http://amazonaws.com.local:1")


def test_messages_that_cannot_be_read_are_back_on_the_queue_when_the_run_fails_with_the_reason(
    pipeline: Pipeline, wire: Wire
) -> None:
    wire.on("ReceiveMessage", WITHOUT_TIMES)
    pipeline.send(logins(3))
    result = take(pipeline, 3)
    assert cause_of_failure(result) == (
        f"QueueError: queue '{pipeline.queue.name}' {LACKS_IT}; they are back on the queue"
    )
    assert pipeline.depth() == (3, 0), "not hidden until their visibility timeout ends"
    assert len(wire.asked("ReceiveMessage")) == 1, "nothing is asked again that cannot be read"
    received = pipeline.queue.client.receive_message(
        QueueUrl=pipeline.queue.url, MaxNumberOfMessages=10, MessageSystemAttributeNames=["ApproximateReceiveCount"]
    )
    assert [message["Attributes"]["ApproximateReceiveCount"] for message in received["Messages"]] == ["2"] * 3


def test_doctor_asks_what_a_run_will_ask_and_returns_the_message_at_once(pipeline: Pipeline, wire: Wire) -> None:
    assert findings()["queue"].ok
    assert not wire.asked("ReceiveMessage"), "nothing waits that could be looked at"
    pipeline.send(logins(2))
    assert findings()["queue"].ok
    assert pipeline.depth() == (2, 0)
    assert take(pipeline, 2).success
    asked = [
        {name: request[name] for name in request if name.endswith(("AttributeNames", "Timeout"))}
        for request in wire.asked("ReceiveMessage")
    ]
    assert asked[0] == asked[-1], "as a run does"

    pipeline.send(logins(2))
    wire.on("ReceiveMessage", WITHOUT_TIMES)
    found = findings()["queue"]
    assert not found.ok
    assert found.message == f"queue '{pipeline.queue.name}' {LACKS_IT}; they are back on the queue"
    assert pipeline.depth() == (2, 0)


def test_doctor_receives_nothing_from_aws(pipeline: Pipeline, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline.send(logins(1))
    monkeypatch.setattr(Queue, "of_aws", True)
    assert findings()["queue"].ok
    assert not wire.asked("ReceiveMessage")
    assert read_depth(open_queue(pipeline.queue.name, load_settings(), connections=1)).visible == 1
