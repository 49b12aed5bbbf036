"""Speak HTTP/1.1 to one endpoint over kept connections: a request as bytes in, status and body out.

Proxies, redirects and retries are not supported: use boto3 for these.
"""

import select
import socket
import ssl
from collections import deque
from collections.abc import Callable
from threading import Lock
from typing import NamedTuple

from httptools import HttpParserError, HttpResponseParser

_READ_BYTES = 1 << 16

UNANSWERED = (OSError, HttpParserError)
"""The errors of an exchange: no connection, a broken one, no response in time, or one that is not HTTP."""


class Reply(NamedTuple):
    """A response."""

    status: int
    body: bytes


class Connections:
    """Connections to one host, made when needed and reused, the last used one first. Thread-safe."""

    def __init__(
        self,
        host: str,
        port: int,
        tls: Callable[[], ssl.SSLContext] | None,
        *,
        connect_seconds: float,
        read_seconds: float,
    ) -> None:
        self._address = (host, port)
        # Called for the first connection, because loading all CA certificates takes longer than making a client.
        self._tls = tls
        self._tls_context: ssl.SSLContext | None = None
        self._tls_lock = Lock()
        self._connect_seconds = connect_seconds
        self._read_seconds = read_seconds
        self._idle: deque[_Connection] = deque()

    def exchange(self, request: bytes) -> Reply:
        """Send a request and return its response.

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
        """Close the idle connections."""
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

    def exchange(self, request: bytes) -> Reply:
        self._parts, self._complete = [], False
        self._parser = HttpResponseParser(self)
        self._socket.sendall(request)
        while not self._complete:
            data = self._socket.recv(_READ_BYTES)
            if not data:
                raise ConnectionError("the server closed the connection instead of answering")
            self._parser.feed_data(data)
        return Reply(self._parser.get_status_code(), b"".join(self._parts))

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
