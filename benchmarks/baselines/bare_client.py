"""Measure the endpoint with a minimal client: sockets and ready-made requests, no signature, no JSON."""

import os
import re
import socket
import sys
from typing import Final
from urllib.parse import urlsplit

_HANDLE: Final = re.compile(rb'"ReceiptHandle":"([^"]*)"')
_LENGTH: Final = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_READ_BYTES: Final = 1 << 18


def main() -> None:
    """Receive and delete ten messages at a time from the queue whose URL is the argument, until it is empty."""
    url = sys.argv[1].encode()
    address = urlsplit(os.environ["AWS_ENDPOINT_URL"])
    with socket.create_connection((address.hostname or "", address.port or 80)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        receive = request("ReceiveMessage", b'{"QueueUrl":"%b","MaxNumberOfMessages":10,"WaitTimeSeconds":0}' % url)
        while handles := _HANDLE.findall(called(connection, receive)):
            entries = b",".join(b'{"Id":"%d","ReceiptHandle":"%b"}' % entry for entry in enumerate(handles))
            called(connection, request("DeleteMessageBatch", b'{"QueueUrl":"%b","Entries":[%b]}' % (url, entries)))


def request(action: str, body: bytes) -> bytes:
    """Return a complete request."""
    head = (
        f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-amz-json-1.0\r\n"
        f"X-Amz-Target: AmazonSQS.{action}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def called(connection: socket.socket, message: bytes) -> bytes:
    """Send a request and return the complete response."""
    connection.sendall(message)
    answer = b""
    while not whole(answer):
        if not (part := connection.recv(_READ_BYTES)):
            raise ConnectionError("the endpoint ended the connection")
        answer += part
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise ConnectionError("the endpoint refused")
    return answer


def whole(answer: bytes) -> bool:
    """Return True if a response is complete."""
    end = answer.find(b"\r\n\r\n")
    length = _LENGTH.search(answer, 0, max(end, 0))
    return length is not None and len(answer) >= end + 4 + int(length[1])


if __name__ == "__main__":
    main()
