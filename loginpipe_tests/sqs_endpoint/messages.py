"""A message as the endpoint stores it, its digests, and its form in an answer."""

import re
from base64 import b64decode
from collections.abc import Mapping, Sequence
from enum import StrEnum
from hashlib import md5
from typing import Any, Final

from loginpipe_tests.sqs_endpoint.refusals import Refusal

ACCOUNT: Final = "000000000000"

_NOT_ALLOWED: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Attributes = Mapping[str, Mapping[str, Any]]
"""A message's own attributes as in the JSON protocol: by name, binary values in base64."""


class State(StrEnum):
    """Where a message is, or how it left its queue."""

    DELAYED = "delayed"
    VISIBLE = "visible"
    IN_FLIGHT = "in flight"
    DELETED = "deleted"
    EXPIRED = "expired"
    PURGED = "purged"
    DEAD_LETTERED = "dead-lettered"


class Message:
    """A message in a queue. Times are seconds since the epoch by the endpoint's clock.

    Attributes:
        number: its number in the queue that holds it; a dead-letter queue gives it another one.
        enqueued: start of its retention period.
        received: when it was last delivered; a lease may last 12 hours from then.
        hidden_until: end of its delay or of its visibility timeout.
        copy_due: another copy of it must still be delivered, even if this one is deleted.
    """

    __slots__ = (
        "attributes",
        "body",
        "body_md5",
        "copy_due",
        "deduplication_id",
        "enqueued",
        "first_received",
        "group",
        "hidden_until",
        "message_id",
        "number",
        "receive_count",
        "received",
        "sent_ms",
        "sequence",
        "source_arn",
        "state",
        "trace",
    )

    def __init__(self, message_id: str, body: str, body_md5: str, now: float) -> None:
        self.message_id = message_id
        self.body = body
        self.body_md5 = body_md5
        self.sent_ms = str(int(now * 1000))
        self.enqueued = now
        self.state = State.VISIBLE
        self.receive_count = 0
        self.received = self.first_received = self.hidden_until = 0.0
        self.copy_due = False
        self.number = 0
        self.sequence = 0
        self.attributes: Attributes | None = None
        self.deduplication_id: str | None = None
        self.group: str | None = None
        self.source_arn: str | None = None
        self.trace: str | None = None

    def system_attributes(self, names: Sequence[str]) -> dict[str, str]:
        """Return the requested system attributes that the message has."""
        if "All" in names:
            names = _SYSTEM_ATTRIBUTES
        shown = {}
        for name in names:
            # The two that every consumer asks for are first.
            if name == "SentTimestamp":
                shown[name] = self.sent_ms
            elif name == "ApproximateReceiveCount":
                shown[name] = str(self.receive_count)
            elif value := self._rarer_attribute(name):
                shown[name] = value
        return shown

    def _rarer_attribute(self, name: str) -> str | None:
        return {
            "ApproximateFirstReceiveTimestamp": str(int(self.first_received * 1000)),
            "AWSTraceHeader": self.trace,
            "DeadLetterQueueSourceArn": self.source_arn,
            "MessageDeduplicationId": self.deduplication_id,
            "MessageGroupId": self.group,
            "SenderId": ACCOUNT,
            "SequenceNumber": f"{self.sequence:020}" if self.sequence else None,
        }.get(name)

    def own_attributes(self, names: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        """Return its own attributes that are requested by name, by ``prefix.*``, or with ``All``."""
        if not self.attributes or not names:
            return {}
        if "All" in names or ".*" in names:
            return dict(self.attributes)
        prefixes = tuple(name[:-2] for name in names if name.endswith(".*"))
        return {
            name: value
            for name, value in self.attributes.items()
            if name in names or (prefixes and name.startswith(prefixes))
        }


_SYSTEM_ATTRIBUTES: Final = (
    "SenderId",
    "SentTimestamp",
    "ApproximateReceiveCount",
    "ApproximateFirstReceiveTimestamp",
    "SequenceNumber",
    "MessageDeduplicationId",
    "MessageGroupId",
    "AWSTraceHeader",
    "DeadLetterQueueSourceArn",
)


def encoded(text: str) -> bytes:
    """Return the bytes of a text.

    Raises:
        Refusal: it holds a character that SQS does not accept, because XML does not allow it.
    """
    if _NOT_ALLOWED.search(text):
        raise Refusal("InvalidMessageContents", "The message contains characters outside the allowed set.")
    return text.encode()


def digest(content: bytes) -> str:
    """Return the MD5 that SQS gives for a body."""
    return md5(content, usedforsecurity=False).hexdigest()


def attributes_digest(attributes: Attributes) -> str:
    """Return the MD5 of message attributes.

    See https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-message-metadata.html
    """
    parts = bytearray()
    for name in sorted(attributes):
        value = attributes[name]
        kind = value["DataType"]
        binary = kind.startswith("Binary")
        content = b64decode(value.get("BinaryValue", "")) if binary else value.get("StringValue", "").encode()
        for part in (name.encode(), kind.encode()):
            parts += len(part).to_bytes(4, "big") + part
        parts += (b"\x02" if binary else b"\x01") + len(content).to_bytes(4, "big") + content
    return digest(bytes(parts))


def attributes_size(attributes: Attributes) -> int:
    """Return how many bytes of a message's 1 MiB its attributes use: names, types and values."""
    return sum(
        len(name.encode())
        + len(value.get("DataType", "").encode())
        + len(value.get("StringValue", "").encode())
        + len(b64decode(value.get("BinaryValue", "")))
        for name, value in attributes.items()
    )
