"""Determine which message a delivery is: its own, or one that was sent again and keeps its first identity.

SQS gives a message that is sent again a new id and a new time. Replays and redrives therefore carry attributes with the
first identity, so that the ledger recognizes the message and the login keeps its date.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID, uuid5

if TYPE_CHECKING:
    from mypy_boto3_sqs.type_defs import MessageAttributeValueTypeDef, MessageTypeDef

REDRIVE_OF = "loginpipe.redrive_of"
"""The first id of a message from the dead-letter queue. It has no outcome yet and keeps this id."""
REPLAY_OF = "loginpipe.replay_of"
"""The id of a rejected message that is tried again. The ledger holds its rejection, so a new id is made from it."""
SENT_MS = "loginpipe.sent_ms"
"""``SentTimestamp`` of the first message."""

# The namespace of replayed ids. A replay that is sent twice is one message.
_REPLAYS = UUID("6f1c2d5e-7b0a-5e64-9a55-0f6f4f0c8a11")


class Identity(NamedTuple):
    """The id of a message in the ledger, and when it was first sent, in milliseconds since 1970 UTC."""

    message_id: str
    sent_ms: int


def identity(delivery: "MessageTypeDef") -> Identity:
    """Return the identity of a delivery. Attributes that are not in our form are ignored."""
    # Few messages have attributes.
    return (_carried(delivery) if "MessageAttributes" in delivery else None) or own_identity(delivery)


def own_identity(delivery: "MessageTypeDef") -> Identity:
    """Return the identity that SQS gave a delivery, regardless of its attributes."""
    return Identity(delivery["MessageId"], int(delivery["Attributes"]["SentTimestamp"]))


def _carried(delivery: "MessageTypeDef") -> Identity | None:
    attributes = {name: value.get("StringValue", "") for name, value in delivery.get("MessageAttributes", {}).items()}
    redriven = attributes.get(REDRIVE_OF)
    try:
        first, sent_ms = UUID(redriven or attributes.get(REPLAY_OF, "")), int(attributes.get(SENT_MS, ""))
    except ValueError:
        return None
    # Only the sender vouches for the time. Here it is limited to the past; the receiver decides if it is too old.
    latest = int(delivery["Attributes"]["SentTimestamp"])
    bounded = max(sent_ms, 1) if sent_ms <= latest else latest
    return Identity(str(first if redriven else replay_id(first)), bounded)


def replay_id(rejected: UUID) -> UUID:
    """Return the id of the replay of a rejected message."""
    return uuid5(_REPLAYS, str(rejected))


def redrive_attributes(delivery: "MessageTypeDef") -> "dict[str, MessageAttributeValueTypeDef]":
    """Return the attributes to send a dead letter back with: the identity that it carries, or its own."""
    attributes: dict[str, Any] = dict(delivery.get("MessageAttributes", {}))
    known_as = _carried(delivery)
    if known_as is None:
        known_as = own_identity(delivery)
        attributes.pop(REPLAY_OF, None)
        attributes |= _strings({REDRIVE_OF: known_as.message_id})
    # The time as read here, so that the next delivery gives the same.
    return attributes | _strings({SENT_MS: str(known_as.sent_ms)})


def replay_attributes(rejected: UUID, sent_ms: int) -> "dict[str, MessageAttributeValueTypeDef]":
    """Return the attributes to send a rejected message again with."""
    return _strings({REPLAY_OF: str(rejected), SENT_MS: str(sent_ms)})


def _strings(values: Mapping[str, str]) -> "dict[str, MessageAttributeValueTypeDef]":
    return {name: {"DataType": "String", "StringValue": value} for name, value in values.items()}
