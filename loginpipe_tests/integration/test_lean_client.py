"""Our own SQS client: when it is used, what it leaves to boto3, and its connections and certificates."""

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import SHUT_RDWR
from typing import Any

import pytest
from botocore.exceptions import ClientError

from loginpipe.common.errors import QueueError
from loginpipe.common.settings import load_settings
from loginpipe.sqs.client import Queue, open_queue
from loginpipe_tests.front import Certificates
from loginpipe_tests.wire import (
    PLAIN_WEB_SERVER,
    Answer,
    Call,
    Forward,
    Tamper,
    Wire,
    answers,
    eventually,
    first,
    refusal,
    success,
)

RECEIVE = "ReceiveMessage"


def receive(queue: Queue, **more: Any) -> list[Any]:
    answer = queue.client.receive_message(QueueUrl=queue.url, MaxNumberOfMessages=10, **more)
    return list(answer.get("Messages", []))


def senders(wire: Wire) -> list[str]:
    """Return the client of each receive; boto3 is recognized by a header of its own."""
    return [
        "boto3" if "amz-sdk-invocation-id" in {name.lower() for name in call.headers} else "lean"
        for call in wire.calls
        if call.action == RECEIVE
    ]


def is_lean(queue: Queue) -> bool:
    return type(queue.client).__name__ != "SQS"


# When it is used


def test_it_is_the_client_unless_another_is_asked_for(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_lean(open_queue(queue.name, load_settings(), connections=1))
    monkeypatch.setenv("LOGINPIPE_SQS_CLIENT", "boto3")
    assert not is_lean(open_queue(queue.name, load_settings(), connections=1))


def test_by_a_proxy_every_call_is_boto3_s(queue: Queue, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://sqs.invalid")
    monkeypatch.setenv("http_proxy", wire.url)
    opened = open_queue(queue.url, load_settings(), connections=1)
    assert not is_lean(opened)
    assert receive(opened) == []
    assert senders(wire) == ["boto3"]


def test_a_host_that_needs_no_proxy_has_the_short_way(
    queue: Queue, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy.invalid:3128")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    opened = open_queue(queue.name, load_settings(), connections=1)
    assert receive(opened) == []
    assert senders(wire) == ["lean"]


# Answers


def test_what_it_receives_is_what_boto3_receives(queue: Queue, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    attributes = {
        "loginpipe.text": {"DataType": "String", "StringValue": "é"},
        "loginpipe.bytes": {"DataType": "Binary", "BinaryValue": b"\x00\xff"},
    }
    queue.client.send_message(QueueUrl=queue.url, MessageBody="ключ 😀", MessageAttributes=attributes)  # type: ignore[arg-type]
    received = {}
    for name in ("lean", "boto3"):
        monkeypatch.setenv("LOGINPIPE_SQS_CLIENT", name)
        (received[name],) = receive(
            open_queue(queue.name, load_settings(), connections=1),
            VisibilityTimeout=0,
            MessageSystemAttributeNames=["SentTimestamp"],
            MessageAttributeNames=["loginpipe.*"],
        )
        received[name].pop("ReceiptHandle")
    assert received["lean"] == received["boto3"]
    assert received["lean"]["MessageAttributes"]["loginpipe.bytes"]["BinaryValue"] == b"\x00\xff"
    assert senders(wire) == ["lean", "boto3"]


def test_a_body_with_a_lone_surrogate_arrives(opened: Queue, wire: Wire) -> None:
    wire.on(RECEIVE, answers(success({"Messages": [{"MessageId": "1", "Body": "\ud800"}]})))
    assert [message["Body"] for message in receive(opened)] == ["\ud800"]
    assert senders(wire) == ["lean"]


@pytest.mark.parametrize("answer", ['{"Messages": null}', '{"Messages": []}', "{}", ""])
def test_an_empty_answer_is_empty_whatever_its_form(opened: Queue, wire: Wire, answer: str) -> None:
    wire.on(RECEIVE, answers(Answer(200, answer.encode())))
    assert receive(opened) == []
    assert senders(wire) == ["lean"]


def test_a_message_without_attributes_may_say_null(opened: Queue, wire: Wire) -> None:
    message = {"MessageId": "1", "Body": "{}", "MessageAttributes": None}
    wire.on(RECEIVE, answers(success({"Messages": [message]})))
    assert receive(opened) == [{"MessageId": "1", "Body": "{}"}]


def test_a_body_of_a_mebibyte_arrives(opened: Queue) -> None:
    body = "é" * (512 * 1024)
    opened.client.send_message(QueueUrl=opened.url, MessageBody=body)
    assert [message["Body"] for message in receive(opened)] == [body]


# What goes to boto3


@pytest.mark.parametrize(
    "failing",
    [
        refusal("RequestThrottled", 403),
        refusal("ServiceUnavailable", 503),
        PLAIN_WEB_SERVER,
        Answer(200, b"[]"),
        Answer(302, b"", {"Location": "http://sqs.invalid/"}),
    ],
    ids=["throttled", "unavailable", "web server", "array", "redirect"],
)
def test_what_is_no_success_is_asked_again_by_boto3(opened: Queue, wire: Wire, failing: Answer) -> None:
    opened.client.send_message(QueueUrl=opened.url, MessageBody="x")
    wire.on(RECEIVE, first(1, answers(failing)))
    assert [message["Body"] for message in receive(opened)] == ["x"]
    assert senders(wire) == ["lean", "boto3"]


def test_an_error_that_stays_is_boto3_s(opened: Queue, wire: Wire) -> None:
    wire.on(RECEIVE, answers(refusal("AccessDenied", 403)))
    with pytest.raises(ClientError) as caught:
        receive(opened)
    assert caught.value.response["Error"]["Code"] == "AccessDenied"
    assert senders(wire) == ["lean", "boto3"]


def test_a_connection_that_breaks_is_replaced(opened: Queue, wire: Wire) -> None:
    opened.client.send_message(QueueUrl=opened.url, MessageBody="x")

    def broken(_call: Call, _forward: Forward) -> Answer:
        # No response is sent: the handler ends, and its connection too.
        raise ConnectionAbortedError

    with dropping(wire, broken):
        assert [message["Body"] for message in receive(opened)] == ["x"]
    assert senders(wire) == ["lean", "boto3"]


@contextmanager
def dropping(wire: Wire, broken: Tamper) -> Iterator[None]:
    wire.on(RECEIVE, first(1, broken))
    yield
    # The wire keeps the errors of a tamper to fail the test, but this one is intended.
    wire._faults.clear()


# Connections


def test_a_connection_is_used_again(opened: Queue, wire: Wire) -> None:
    before = len(wire._server.connections)
    for _ in range(5):
        receive(opened)
    assert len(wire._server.connections) == before + 1
    assert senders(wire) == ["lean"] * 5


def test_a_connection_that_the_server_ended_meanwhile_is_not(opened: Queue, wire: Wire) -> None:
    receive(opened)
    for connection in list(wire._server.connections):
        connection.shutdown(SHUT_RDWR)
    receive(opened)
    assert senders(wire) == ["lean"] * 2


def test_a_server_may_end_the_connection_with_its_answer(opened: Queue, wire: Wire) -> None:
    def last(call: Call, forward: Forward) -> Answer:
        answer = forward(call)
        return Answer(answer.status, answer.body, answer.headers | {"Connection": "close"})

    wire.on(RECEIVE, last)
    for _ in range(3):
        receive(opened)
    assert senders(wire) == ["lean"] * 3


def test_it_closes_its_connections(opened: Queue, wire: Wire) -> None:
    receive(opened)
    assert wire._server.connections
    opened.client.close()
    eventually(lambda: not wire._server.connections, "no connection is left, of ours or of boto3")
    receive(opened)
    assert senders(wire) == ["lean"] * 2


# Credentials


def test_credentials_that_are_renewed_are_used(
    queue: Queue, wire: Wire, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def issue(key: str, minutes: int) -> None:
        expires = (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat()
        secret = {"Version": 1, "AccessKeyId": key, "SecretAccessKey": "s", "SessionToken": f"t-{key}"}
        (tmp_path / "issued.json").write_text(json.dumps(secret | {"Expiration": expires}))

    (tmp_path / "config").write_text(f"[default]\ncredential_process = cat {tmp_path / 'issued.json'}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    # So close to their expiry that they are renewed with each call.
    issue("first", 5)
    opened = open_queue(queue.name, load_settings(), connections=1)
    issue("second", 60)
    receive(opened)
    (call,) = [call for call in wire.calls if call.action == RECEIVE]
    assert "Credential=second/" in call.headers["Authorization"]
    assert call.headers["X-Amz-Security-Token"] == "t-second"
    assert senders(wire) == ["lean"]


# TLS


class SecureQueue(BaseHTTPRequestHandler):
    """A stand-in for SQS with one empty queue."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        # Before the answer: the test looks as soon as the client has it.
        self.server.asked.append(self.headers)  # type: ignore[attr-defined]
        self.server.clients.append(self.client_address)  # type: ignore[attr-defined]
        body = json.dumps({"Attributes": {"QueueArn": "arn:aws:sqs:us-east-1:000000000000:secure"}}).encode()
        # Chunked, so that the length of the body is not known in advance.
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in (body[:7], body[7:]):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def secure(
    tmp_path: Path, aws: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], tuple[ThreadingHTTPServer, Certificates]]]:
    """Return a function that starts a server with a certificate for a host, and points the client at ``localhost``."""
    servers: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def start(host: str) -> tuple[ThreadingHTTPServer, Certificates]:
        certificates = Certificates(tmp_path, host)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.chain)
        server = ThreadingHTTPServer(("127.0.0.1", 0), SecureQueue)
        server.daemon_threads = True
        server.asked, server.clients = [], []  # type: ignore[attr-defined]
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        servers.append((server, thread))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://localhost:{server.server_address[1]}")
        return server, certificates

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


QUEUE_URL = "https://localhost/000000000000/secure"


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
def test_tls_is_verified_with_the_certificates_that_boto3_trusts(
    secure: Any, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    server, certificates = secure("localhost")
    monkeypatch.setenv(variable, str(certificates.authority))
    opened = open_queue(QUEUE_URL, load_settings(), connections=1)
    assert is_lean(opened)
    for _ in range(3):
        assert receive(opened) == []
    assert ["amz-sdk-invocation-id" in headers for headers in server.asked] == [True, False, False, False]
    _, *ours = server.clients
    assert len(set(ours)) == 1, "a connection for each call"


def test_a_certificate_that_no_one_vouches_for_is_refused(secure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server, _ = secure("localhost")
    # Otherwise botocore retries for ten seconds.
    monkeypatch.setattr("loginpipe.common.aws._ATTEMPTS", 1)
    with pytest.raises(QueueError, match="is unreachable"):
        open_queue(QUEUE_URL, load_settings(), connections=1)
    assert server.asked == []


def test_a_certificate_of_another_host_is_refused(secure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server, certificates = secure("localhost")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificates.authority))
    opened = open_queue(QUEUE_URL, load_settings(), connections=1)
    asked = len(server.asked)
    # The same server and CA, at an address that is not in the certificate.
    opened.client._connections._address = ("127.0.0.1", server.server_address[1])  # type: ignore[attr-defined]
    # Our client refuses it, so boto3 makes the call, at the right address.
    assert receive(opened) == []
    assert ["amz-sdk-invocation-id" in headers for headers in server.asked[asked:]] == [True]
