"""A client of SQS that is much faster than boto3 for the three frequent calls, and leaves all others to boto3.

Receives, deletes and visibility changes are signed, sent and read here. Without a successful response, boto3 makes the
call from the start, with its usual retries and errors. All three calls may be made twice: messages of a lost receive
come again when their visibility timeout ends.

The rule for signatures (Signature Version 4):
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html. botocore's signer handles
any request and takes twelve times as long. Tests compare the two.

Requests go over kept connections of HTTP/1.1. Proxies, redirects and retries are left to boto3.
"""

import hmac
import json
import os
import select
import socket
import ssl
import time
from base64 import b64decode
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from hashlib import sha256
from http import HTTPStatus
from threading import Lock
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import orjson
from httptools import HttpParserError, HttpResponseParser

from loginpipe.common.aws import MALFORMED

if TYPE_CHECKING:
    from botocore.credentials import Credentials, ReadOnlyCredentials
    from botocore.session import Session
    from mypy_boto3_sqs import SQSClient

_PORTS = {"http": 80, "https": 443}
_ALGORITHM = "AWS4-HMAC-SHA256"
_SERVICE = "sqs"
_TERMINATOR = "aws4_request"
_CONTENT_TYPE = "application/x-amz-json-1.0"
_READ_BYTES = 1 << 16


@dataclass(frozen=True)
class Signer:
    """Makes the signed head of a request: a POST to ``/`` of one host, a JSON body, no query."""

    host: str
    region: str
    user_agent: str

    def head(self, target: str, body: bytes, credentials: "ReadOnlyCredentials") -> bytes:
        """Return request line and headers, with the empty line at their end.

        ``target`` is the operation, as in ``AmazonSQS.ReceiveMessage``.
        """
        token = credentials.token
        stamp = _stamp(int(time.time()))
        scope = f"{stamp[:8]}/{self.region}/{_SERVICE}/{_TERMINATOR}"
        token_header = f"X-Amz-Security-Token: {token}\r\n" if token else ""
        of_session = f"x-amz-security-token:{token}\n" if token else ""
        signed = f"content-type;host;x-amz-date;{'x-amz-security-token;' if token else ''}x-amz-target"
        canonical = (
            f"POST\n/\n\ncontent-type:{_CONTENT_TYPE}\nhost:{self.host}\nx-amz-date:{stamp}\n{of_session}"
            f"x-amz-target:{target}\n\n{signed}\n{sha256(body).hexdigest()}"
        )
        to_sign = f"{_ALGORITHM}\n{stamp}\n{scope}\n{sha256(canonical.encode()).hexdigest()}"
        key = _signing_key(credentials.secret_key, stamp[:8], self.region)
        signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
        credential = f"{credentials.access_key}/{scope}"
        return (
            f"POST / HTTP/1.1\r\nHost: {self.host}\r\nContent-Type: {_CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\n"
            f"X-Amz-Target: {target}\r\nX-Amz-Date: {stamp}\r\n"
            f"{token_header}Authorization: {_ALGORITHM} Credential={credential}, SignedHeaders={signed}, "
            f"Signature={signature}\r\nUser-Agent: {self.user_agent}\r\n\r\n"
        ).encode()


@lru_cache(maxsize=2)
def _stamp(second: int) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))


@lru_cache(maxsize=2)
def _signing_key(secret_key: str | None, day: str, region: str) -> bytes:
    key = f"AWS4{secret_key}".encode()
    for part in (day, region, _SERVICE, _TERMINATOR):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def lean_client(client: "SQSClient", session: "Session", *, connect_seconds: float, read_seconds: float) -> "SQSClient":
    """Return a client with fast calls, or ``client`` itself if they are not possible.

    They are not possible through a proxy, to an endpoint with a path, or without credentials. ``session`` made
    ``client``: its credentials and its trusted certificates are used. The two times limit connecting and waiting for a
    response.
    """
    from botocore.utils import get_environ_proxies

    url = client.meta.endpoint_url
    endpoint = urlsplit(url)
    credentials = session.get_credentials()
    if credentials is None or endpoint.path not in {"", "/"} or endpoint.scheme in get_environ_proxies(url):
        return client
    address = (endpoint.hostname or "", endpoint.port or _PORTS[endpoint.scheme])
    tls = partial(_tls, session) if endpoint.scheme == "https" else None
    connections = _Connections(address, tls, connect_seconds, read_seconds)
    signer = Signer(endpoint.netloc, client.meta.region_name, client.meta.config.user_agent)  # type: ignore[attr-defined]
    return cast("SQSClient", _LeanClient(client, credentials, signer, connections))


def _tls(session: "Session") -> ssl.SSLContext:
    """Trust the same authorities as boto3: those of ``ca_bundle`` or ``REQUESTS_CA_BUNDLE``, or the default ones."""
    from botocore.httpsession import get_cert_path

    trusted = session.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE")
    authorities = get_cert_path(trusted or True)  # type: ignore[arg-type]
    return ssl.create_default_context(cafile=authorities)


@dataclass(eq=False, repr=False)
class _LeanClient:
    """boto3's client with three calls replaced by fast ones. Thread-safe."""

    _client: "SQSClient"
    _credentials: "Credentials"
    _signer: Signer
    _connections: "_Connections"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def receive_message(self, **request: Any) -> Any:
        return self._ask("ReceiveMessage", request, self._client.receive_message)

    def delete_message_batch(self, **request: Any) -> Any:
        return self._ask("DeleteMessageBatch", request, self._client.delete_message_batch)

    def change_message_visibility_batch(self, **request: Any) -> Any:
        return self._ask("ChangeMessageVisibilityBatch", request, self._client.change_message_visibility_batch)

    def close(self) -> None:
        self._connections.close()
        self._client.close()

    def _ask(self, operation: str, request: dict[str, Any], by_boto3: Callable[..., Any]) -> Any:
        answer = self._answer(f"AmazonSQS.{operation}", request)
        return by_boto3(**request) if answer is None else answer

    def _answer(self, target: str, request: dict[str, Any]) -> dict[str, Any] | None:
        """Return the response of SQS, or None if it is not a success."""
        from botocore.exceptions import BotoCoreError

        body = orjson.dumps(request)
        try:
            head = self._signer.head(target, body, self._credentials.get_frozen_credentials())
            status, content = self._connections.exchange(head + body)
            return _content(content) if status == HTTPStatus.OK else None
        except (OSError, HttpParserError, *MALFORMED, BotoCoreError):
            return None


def _content(body: bytes) -> dict[str, Any]:
    """Return a response as boto3 does: an empty body is an empty response, and null values are left out.

    Raises:
        One of `loginpipe.common.aws.MALFORMED`: not JSON, or not in the form of a response.
    """
    try:
        answer: dict[str, Any] = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError:
        # orjson refuses lone surrogates, which some endpoints let through.
        answer = json.loads(body)
    answer = {name: value for name, value in answer.items() if value is not None}
    for message in answer.get("Messages", ()):
        # Few messages have attributes.
        if "MessageAttributes" in message:
            attributes = message.pop("MessageAttributes")
            if attributes is not None:
                message["MessageAttributes"] = attributes
                for attribute in attributes.values():
                    if "BinaryValue" in attribute:
                        attribute["BinaryValue"] = b64decode(attribute["BinaryValue"])
    return answer


@dataclass(eq=False, repr=False)
class _Connections:
    """Connections to one host, made when needed and reused, the last used one first. Thread-safe."""

    _address: tuple[str, int]
    # Called for the first connection, because loading all CA certificates takes longer than making a client.
    _tls: Callable[[], ssl.SSLContext] | None
    _connect_seconds: float
    _read_seconds: float

    def __post_init__(self) -> None:
        self._tls_context: ssl.SSLContext | None = None
        self._tls_lock = Lock()
        self._idle: deque[_Connection] = deque()

    def exchange(self, request: bytes) -> tuple[int, bytes]:
        """Send a request and return status and body of its response.

        Raises:
            OSError: no connection, a broken one, or no response in time. The request may have taken effect.
            HttpParserError: the response is not HTTP.
        """
        connection = self._idle_one() or self._new_one()
        try:
            reply = connection.exchange(request)
        except BaseException:
            connection.close()
            raise
        if connection.reusable:
            self._idle.append(connection)
        else:
            connection.close()
        return reply

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def __del__(self) -> None:
        self.close()

    def _idle_one(self) -> "_Connection | None":
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return None
            if not connection.ended_by_server():
                return connection
            connection.close()

    def _new_one(self) -> "_Connection":
        plain = socket.create_connection(self._address, timeout=self._connect_seconds)
        try:
            # Each request is one write, so waiting to fill a packet would only delay it.
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            secured = self._secured(plain)
            secured.settimeout(self._read_seconds)
        except BaseException:
            plain.close()
            raise
        return _Connection(secured)

    def _secured(self, plain: socket.socket) -> socket.socket:
        if self._tls is None:
            return plain
        with self._tls_lock:
            if self._tls_context is None:
                self._tls_context = self._tls()
        return self._tls_context.wrap_socket(plain, server_hostname=self._address[0])


class _Connection:
    """One connection, used by one thread at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self.reusable = True
        self._socket = sock
        self._parts: list[bytes] = []
        self._complete = False
        self._parser: HttpResponseParser
        self._readable = select.poll()
        self._readable.register(sock, select.POLLIN)

    def exchange(self, request: bytes) -> tuple[int, bytes]:
        self._parts, self._complete = [], False
        self._parser = HttpResponseParser(self)
        self._socket.sendall(request)
        while not self._complete:
            data = self._socket.recv(_READ_BYTES)
            if not data:
                raise ConnectionError("the server closed the connection instead of answering")
            self._parser.feed_data(data)
        return self._parser.get_status_code(), b"".join(self._parts)

    def ended_by_server(self) -> bool:
        """Return True if unrequested data can be read: most likely the end of the connection."""
        return bool(self._readable.poll(0))

    def close(self) -> None:
        self._socket.close()

    # Callbacks of the parser.

    def on_headers_complete(self) -> None:
        self.reusable = self._parser.should_keep_alive()

    def on_body(self, part: bytes) -> None:
        self._parts.append(part)

    def on_message_complete(self) -> None:
        self._complete = True
