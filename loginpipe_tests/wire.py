"""Helpers of the pipeline tests: a proxy in front of the SQS endpoint, logins to send, and checks of the results.

The proxy can change single answers, for what no local server does by itself: bodies damaged on the way, entries that
fail in a successful response, errors, answers of other programs.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from socket import SHUT_RDWR, socket
from typing import Any, Final, Protocol, TypeAlias
from unittest.mock import patch
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import dagster as dg
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from loginpipe.custody.opening import open_value, unwrap
from loginpipe.logins.messages import Message
from loginpipe.masking.sealing import SealedValue, WrappedDataKey
from loginpipe.sqs.client import Queue
from loginpipe_tests.conftest import KeyFiles, Pipeline

# A while ago: an original that was sent too long ago is none.
_SENT_AT: Final = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=9)
SENT_MS: Final = int(_SENT_AT.timestamp() * 1000)
SENT_ON: Final = _SENT_AT.date()

_UPSTREAM_SECONDS: Final = 30
_POLICIES: Final = Path(__file__).parents[1] / "deploy" / "aws" / "policies"


@dataclass(frozen=True)
class Call:
    """A call of a client."""

    action: str
    body: bytes
    headers: dict[str, str]

    @cached_property
    def request(self) -> dict[str, Any]:
        return json.loads(self.body)  # type: ignore[no-any-return]

    def with_request(self, request: dict[str, Any]) -> "Call":
        return Call(self.action, json.dumps(request).encode(), self.headers)


@dataclass(frozen=True)
class Answer:
    """An answer of SQS, or of a program in its place."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/x-amz-json-1.0"})

    @cached_property
    def content(self) -> dict[str, Any]:
        return json.loads(self.body)  # type: ignore[no-any-return]


Forward: TypeAlias = Callable[[Call], Answer]
Tamper: TypeAlias = Callable[[Call, Forward], Answer]
"""Answers a call; it may forward the call first."""


def success(content: dict[str, Any]) -> Answer:
    """Return a successful answer of SQS."""
    return Answer(200, json.dumps(content).encode())


def refusal(code: str, status: int = 400) -> Answer:
    """Return an error response of SQS."""
    body = {"__type": f"com.amazonaws.sqs#{code}", "message": "refused by the test"}
    return Answer(status, json.dumps(body).encode())


PLAIN_WEB_SERVER: Final = Answer(200, b"<!doctype html><title>It works</title>", {"Content-Type": "text/html"})
OLD_LOCALSTACK: Final = Answer(
    500,
    b"<?xml version='1.0' encoding='utf-8'?>\n"
    b'<ErrorResponse xmlns="http://queue.amazonaws.com/doc/2012-11-05/"><Error><Code>InternalError</Code>'
    b"<Message>exception while calling sqs with unknown operation: Operation detection failed. Missing Action in "
    b"request for query-protocol service ServiceModel(sqs).</Message></Error></ErrorResponse>",
    {"Content-Type": "application/x-amz-json-1.0"},
)
"""The answer of LocalStack before 3.0 to a boto3 that speaks JSON (localstack/localstack#9610)."""


def answers(answer: Answer) -> Tamper:
    """Return a tamper that gives this answer and forwards nothing."""
    return lambda _call, _forward: answer


def first(times: int, tamper: Tamper) -> Tamper:
    """Return a tamper for the first ``times`` calls only."""
    numbers = count(1)
    return lambda call, forward: tamper(call, forward) if next(numbers) <= times else forward(call)


def then(hook: Callable[[], Any]) -> Tamper:
    """Return a tamper that forwards a call and runs the hook before it returns the answer."""

    def tamper(call: Call, forward: Forward) -> Answer:
        answer = forward(call)
        hook()
        return answer

    return tamper


def failed_entries(
    code: str, *, sender_fault: bool, which: Callable[[dict[str, Any]], bool] = lambda _: True
) -> Tamper:
    """Return a tamper that fails some entries of a batch and does not forward them."""

    def tamper(call: Call, forward: Forward) -> Answer:
        entries = call.request["Entries"]
        failed = [{"Id": e["Id"], "Code": code, "SenderFault": sender_fault} for e in entries if which(e)]
        passed = [e for e in entries if not which(e)]
        content = forward(call.with_request({**call.request, "Entries": passed})).content if passed else {}
        return success({**content, "Failed": [*content.get("Failed", []), *failed]})

    return tamper


def damaged_bodies(which: Callable[[dict[str, Any]], bool] = lambda _: True) -> Tamper:
    """Return a tamper that changes the bodies of received messages but keeps SQS's MD5 of them."""

    def tamper(call: Call, forward: Forward) -> Answer:
        content = forward(call).content
        for message in content.get("Messages", []):
            if which(message):
                message["Body"] = message["Body"].replace(":", ";", 1)
        return success(content)

    return tamper


def depth(*, visible: int, in_flight: int) -> Tamper:
    """Return a tamper that answers with these numbers of messages."""
    said = {"ApproximateNumberOfMessages": visible, "ApproximateNumberOfMessagesNotVisible": in_flight}

    def tamper(call: Call, forward: Forward) -> Answer:
        content = forward(call).content
        attributes = content["Attributes"]
        changed = {name: str(number) for name, number in said.items() if name in attributes}
        return success({**content, "Attributes": attributes | changed})

    return tamper


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True

    def __init__(self, wire: "Wire") -> None:
        self.wire = wire
        self.connections: set[socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    def get_request(self) -> tuple[socket, Any]:
        connection, address = super().get_request()
        self.connections.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that disconnects is no error here; Wire.handle has kept all other errors.
        pass


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        call = Call(self.headers.get("X-Amz-Target", "").rpartition(".")[-1], body, dict(self.headers))
        answer = self.server.wire.handle(call)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


class Wire:
    """The proxy, a context manager. It remembers every call, and its threads end with it."""

    def __init__(self, endpoint_url: str) -> None:
        self._upstream = urlsplit(endpoint_url)
        self._tampers: dict[str, Tamper] = {}
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="wire")
        self._faults: list[Exception] = []
        self.calls: list[Call] = []
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "Wire":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        for connection in list(self._server.connections):
            with suppress(OSError):
                connection.shutdown(SHUT_RDWR)
        self._server.server_close()
        if self._faults:
            raise self._faults[0]

    def on(self, action: str, tamper: Tamper) -> None:
        """Use the tamper for an action from now on; for all actions with ``*``."""
        self._tampers[action] = tamper

    def asked(self, action: str) -> list[dict[str, Any]]:
        """Return the requests of an action so far."""
        return [call.request for call in list(self.calls) if call.action == action]

    def handle(self, call: Call) -> Answer:
        self.calls.append(call)
        tamper = self._tampers.get(call.action) or self._tampers.get("*")
        try:
            return tamper(call, self._forward) if tamper else self._forward(call)
        except Exception as fault:
            self._faults.append(fault)
            raise

    def _forward(self, call: Call) -> Answer:
        upstream = HTTPConnection(str(self._upstream.hostname), self._upstream.port, timeout=_UPSTREAM_SECONDS)
        try:
            ours = {"content-length", "host"}
            kept = {name: value for name, value in call.headers.items() if name.lower() not in ours}
            upstream.request("POST", "/", call.body, kept)
            answer = upstream.getresponse()
            names = ("Content-Type", "x-amzn-query-error")
            headers = {name: value for name in names if (value := answer.getheader(name)) is not None}
            return Answer(answer.status, answer.read(), headers)
        finally:
            upstream.close()


def eventually(holds: Callable[[], bool], what: str, seconds: float = 15) -> None:
    """Wait until the condition is true; fail if it is not in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)


def login(**fields: Any) -> str:
    """Return the body of a good login, with some fields replaced."""
    event = {
        "user_id": "424cdd21-063a-43a7-b91b-7ca1a833afae",
        "app_version": "2.3.0",
        "device_type": "android",
        "ip": "199.172.111.135",
        "locale": "RU",
        "device_id": "593-47-5928",
    }
    return json.dumps(event | fields)


def logins(number: int) -> list[str]:
    """Return the bodies of ``number`` good logins, each of its own user: user-0, user-1, …"""
    return [login(user_id=f"user-{i}", ip=f"198.51.100.{i}", device_id=f"device-{i}") for i in range(number)]


def sns_envelope(message: str) -> str:
    """Return what SNS sends to a queue that is subscribed without raw delivery."""
    return json.dumps(
        {
            "Type": "Notification",
            "MessageId": str(uuid4()),
            "TopicArn": "arn:aws:sns:eu-west-1:123456789012:logins",
            "Message": message,
            "Timestamp": "2026-11-21T12:00:00.000Z",
            "SignatureVersion": "1",
            "Signature": "EXAMPLE",
            "SigningCertURL": "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-1.pem",
            "UnsubscribeURL": "https://sns.eu-west-1.amazonaws.com/?Action=Unsubscribe",
        }
    )


def eventbridge_envelope(detail: Any) -> str:
    """Return what an EventBridge rule sends to a queue that is its target."""
    return json.dumps(
        {
            "version": "0",
            "id": str(uuid4()),
            "detail-type": "login",
            "source": "app.logins",
            "account": "123456789012",
            "time": "2026-11-21T12:00:00Z",
            "region": "eu-west-1",
            "resources": [],
            "detail": detail,
        }
    )


def delivered(body: str, **known: Any) -> Message:
    """Return a received message with these fields; the others have usual values."""
    message_id = known.get("message_id") or str(uuid4())
    usual: dict[str, Any] = {"message_id": message_id, "delivery_id": message_id, "receipt_handle": "handle"}
    usual |= {"sent_ms": SENT_MS, "received_ms": SENT_MS + 5, "receive_count": 1, "body_intact": True}
    return Message(body=body, **(usual | known))


def received(queue: Queue, number: int, visibility_seconds: int = 120) -> list[Message]:
    """Send ``number`` messages, and receive them."""
    for i in range(number):
        queue.client.send_message(QueueUrl=queue.url, MessageBody=str(i))
    return received_again(queue, number, visibility_seconds)


def received_again(queue: Queue, number: int, visibility_seconds: int = 120) -> list[Message]:
    """Receive ``number`` messages that the queue already has."""
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


def take(pipeline: Pipeline, number: int, **overrides: Any) -> dg.ExecuteInProcessResult:
    """Run the job with ``number`` messages in a batch."""
    with patch.dict(os.environ, LOGINPIPE_BATCH_MESSAGES=str(number)):
        return pipeline.run(**overrides)


def fail_a_run(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run fail before it receives anything."""
    with monkeypatch.context() as mistaken:
        mistaken.setenv("LOGINPIPE_SEAL_KEY", "file:absent.pem")
        assert not take(pipeline, 1).success


def ingest(pipeline: Pipeline, *bodies: str) -> dg.ExecuteInProcessResult:
    """Send messages and ingest them with one run."""
    pipeline.send(bodies)
    result = take(pipeline, len(bodies))
    assert result.success
    return result


def cause_of_failure(result: dg.ExecuteInProcessResult) -> str:
    """Return class and message of the first cause of a run's failure, from Dagster's event log."""
    assert not result.success
    (event,) = [e for e in result.all_events if e.event_type == dg.DagsterEventType.RUN_FAILURE]
    error = event.job_failure_data.error
    assert error is not None
    while error.cause is not None:
        error = error.cause
    return error.message.removeprefix("loginpipe.common.errors.").removesuffix("\n")


def metadata(result: dg.ExecuteInProcessResult) -> dict[str, dict[str, Any]]:
    """Return the metadata of every materialization of a run, by asset."""
    return {
        event.asset_key.to_user_string(): {name: entry.value for name, entry in event.materialization.metadata.items()}
        for event in result.get_asset_materialization_events()
        if event.asset_key is not None
    }


def checks(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    """Return whether each asset check of a run passed, by name."""
    return {evaluation.check_name: evaluation.passed for evaluation in result.get_asset_check_evaluations()}


def logged(pipeline: Pipeline, result: dg.ExecuteInProcessResult) -> list[str]:
    """Return every message of a run in Dagster's event log."""
    return [entry.user_message for entry in pipeline.instance.all_logs(result.run_id)]


def users(pipeline: Pipeline) -> list[str]:
    """Return the users whose logins are in the table, sorted."""
    return [user for (user,) in pipeline.rows("SELECT user_id FROM user_logins ORDER BY 1")]


class HasRows(Protocol):
    """An object that can query the database."""

    def rows(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]: ...


def tables(pipeline: HasRows, *, but: Iterable[str] = ()) -> dict[str, list[str]]:
    """Return every table of all schemas except Postgres' own, as the text of its rows, sorted."""
    names = pipeline.rows(
        """
        SELECT quote_ident(nspname) || '.' || quote_ident(relname)
        FROM pg_class
        JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE relkind IN ('r', 'p') AND NOT relispartition
            AND nspname NOT LIKE 'pg\\_%%' AND nspname <> 'information_schema'
        """
    )
    return {
        name: [text for (text,) in pipeline.rows(f"SELECT t::text FROM {name} AS t ORDER BY 1")]
        for (name,) in names
        if name not in set(but)
    }


@contextmanager
def at_the_wire(pipeline: Pipeline, monkeypatch: Any) -> Iterator[Wire]:
    """Put a proxy between the pipeline and its queue. The test itself uses the endpoint directly."""
    with Wire(pipeline.queue.client.meta.endpoint_url) as wire:
        monkeypatch.setenv("AWS_ENDPOINT_URL", wire.url)
        yield wire


def not_allowed(calls: Iterable[Call], role: str) -> set[tuple[str, str]]:
    """Return the calls to SQS that a policy of ``deploy/aws`` does not allow on their queue: action and queue."""
    policy = json.loads((_POLICIES / f"{role}.json").read_text())
    allowed = {
        (action.removeprefix("sqs:"), resource.rpartition(":")[2])
        for statement in policy["Statement"]
        if statement["Effect"] == "Allow"
        for action in _listed(statement["Action"])
        for resource in _listed(statement["Resource"])
    }
    # The right to an action is also the right to its batches.
    made = {
        (
            call.action.removesuffix("Batch"),
            "DEAD_LETTER_QUEUE"
            if call.request.get("QueueUrl", call.request.get("QueueName")).endswith("-dlq")
            else "QUEUE",
        )
        for call in calls
    }
    assert made
    return made - allowed


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


class Custodian:
    """Opens what the pipeline sealed: it has the private key, and reads the vault's tables directly."""

    def __init__(self, pipeline: Pipeline, key_files: KeyFiles) -> None:
        self._rows = pipeline.rows
        key = load_pem_private_key(key_files.seal_private.read_bytes(), None)
        assert isinstance(key, rsa.RSAPrivateKey)
        self._key = key

    def values(self) -> dict[str, bytes]:
        """Return every value in the vault by its token."""
        statement = "SELECT token, field, data_key_id::text, position, ciphertext FROM vault.sealed_values"
        return self._opened(statement)

    def bodies(self) -> dict[str, bytes]:
        """Return every sealed body of a rejected message by message id."""
        return self._opened(
            "SELECT message_id::text, 'body', data_key_id::text, position, sealed_body FROM loginpipe.rejected_messages"
        )

    def _opened(self, statement: str) -> dict[str, bytes]:
        data_keys: dict[UUID, tuple[bytes, str]] = {}
        wrapped_keys = self._rows("SELECT data_key_id::text, recipient, wrapped_key FROM vault.data_keys")
        for data_key_id, recipient, wrapped in wrapped_keys:
            data_key = WrappedDataKey(UUID(data_key_id), recipient, bytes(wrapped))
            data_keys[data_key.data_key_id] = unwrap(data_key, self._key), recipient
        opened = {}
        for subject, field_name, data_key_id, position, ciphertext in self._rows(statement):
            value = SealedValue(subject, field_name, UUID(data_key_id), position, bytes(ciphertext))
            key, recipient = data_keys[value.data_key_id]
            opened[subject] = open_value(value, key, [recipient])
        return opened
