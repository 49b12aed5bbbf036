"""HTTP/1.1 on one connection: requests with a body of known length, keep-alive, one request at a time."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import count
from typing import Final

_TARGET: Final = re.compile(rb"\r\nx-amz-target:[ \t]*([^\r]*?)[ \t]*\r\n", re.IGNORECASE)
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)[ \t]*\r\n", re.IGNORECASE)
_CLOSE: Final = re.compile(rb"\r\nconnection:[ \t]*close[ \t]*\r\n", re.IGNORECASE)
_EXPECT: Final = re.compile(rb"\r\nexpect:[ \t]*100-continue[ \t]*\r\n", re.IGNORECASE)
_MAX_HEADERS_BYTES: Final = 65_536
_END: Final = b"\r\n\r\n"
_OK: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0\r\nx-amzn-RequestId: %d\r\n"
    b"Content-Length: %d\r\n\r\n%b"
)

_request_ids = count(1)


@dataclass(frozen=True, slots=True)
class Call:
    """A request as received."""

    path: str
    target: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer to send."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class Connection(asyncio.Protocol):
    """A client's connection. Each call goes to the handler, which answers with `reply` or `drop`, now or later."""

    def __init__(self, handle: Callable[["Connection", Call], None], everyone: set["Connection"]) -> None:
        self.on_lost: Callable[[], None] | None = None
        self._handle = handle
        self._everyone = everyone
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._busy = False
        self._last = False
        self._continued = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._everyone.add(self)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._transport = None
        self._everyone.discard(self)
        if self.on_lost is not None:
            self.on_lost()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._go_on()

    def reply(self, reply: Reply) -> None:
        """Answer the current call. The client may already be gone."""
        self._busy = False
        self.on_lost = None
        if self._transport is None:
            return
        if reply.status == HTTPStatus.OK:
            self._transport.write(_OK % (next(_request_ids), len(reply.body), reply.body))
        else:
            headers = "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items())
            head = (
                f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}\r\n"
                f"Content-Type: application/x-amz-json-1.0\r\nx-amzn-RequestId: {next(_request_ids)}\r\n"
                f"{headers}Content-Length: {len(reply.body)}\r\n\r\n"
            )
            self._transport.write(head.encode() + reply.body)
        if self._last:
            self._transport.close()
        elif self._buffer:
            self._go_on()

    def drop(self) -> None:
        """Close the connection instead of answering the current call."""
        self._busy = False
        self.on_lost = None
        if self._transport is not None:
            self._transport.abort()

    def _go_on(self) -> None:
        while not self._busy and self._transport is not None and (call := self._next_call()) is not None:
            self._busy = True
            self._handle(self, call)

    def _next_call(self) -> Call | None:
        """Take the next complete request from the received data."""
        buffer = self._buffer
        end = buffer.find(_END)
        if end < 0:
            if len(buffer) > _MAX_HEADERS_BYTES:
                self.drop()
            return None
        head = bytes(buffer[: end + 2])
        length = _LENGTH.search(head)
        begin = end + len(_END)
        whole = begin + (int(length[1]) if length else 0)
        if len(buffer) < whole:
            self._ask_for_the_body(head)
            return None
        body = bytes(buffer[begin:whole])
        del buffer[:whole]
        self._continued = False
        self._last = _CLOSE.search(head) is not None
        target = _TARGET.search(head)
        path = head.split(b" ", 2)[1].decode("ascii", "replace")
        return Call(path, target[1].decode("ascii", "replace") if target else "", body)

    def _ask_for_the_body(self, head: bytes) -> None:
        if not self._continued and self._transport is not None and _EXPECT.search(head):
            self._continued = True
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
