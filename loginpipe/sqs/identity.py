"""Which message a delivery is: the one SQS numbered, or one that we sent again and that keeps its first identity.

SQS gives a message that is sent again a new id and a new time. What we send again carries attributes that say which
message it is, so that the ledger knows it and the date of the login stays right, however often it is sent.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID, uuid5

if TYPE_CHECKING:
    from mypy_boto3_sqs.type_defs import MessageAttributeValueTypeDef, MessageTypeDef

REDRIVE_OF = "loginpipe.redrive_of"
"""The first id of a message moved back from the dead-letter queue: it has no outcome yet, and keeps its id."""
REPLAY_OF = "loginpipe.replay_of"
"""The id of a rejected message that is tried again: its rejection is in the ledger, so it gets an id made from it."""
SENT_MS = "loginpipe.sent_ms"
"""``SentTimestamp`` of the first message."""

# The namespace of replayed ids: a replay that is sent twice is one message.
_REPLAYS = UUID("6f1c2d5e-7b0a-5e64-9a55-0f6f4f0c8a11")


class Identity(NamedTuple):
    """The id by which the ledger knows a message, and when it was first sent (milliseconds since 1970, UTC)."""

    message_id: str
    sent_ms: int


def identity(delivery: "MessageTypeDef") -> Identity:
    """Return a delivery's identity; attributes that are not of the form that we write are as none."""
    # Hardly any message has attributes.
    return (_carried(delivery) if "MessageAttributes" in delivery else None) or own_identity(delivery)


def own_identity(delivery: "MessageTypeDef") -> Identity:
    """Return the identity that SQS gave a delivery, whatever its attributes say."""
    return Identity(delivery["MessageId"], int(delivery["Attributes"]["SentTimestamp"]))


def _carried(delivery: "MessageTypeDef") -> Identity | None:
    attributes = {name: value.get("StringValue", "") for name, value in delivery.get("MessageAttributes", {}).items()}
    redriven = attributes.get(REDRIVE_OF)
    try:
        first, sent_ms = UUID(redriven or attributes.get(REPLAY_OF, "")), int(attributes.get(SENT_MS, ""))
    except ValueError:
        return None
    # Only its sender vouches for the time. It is not from the future; whether it is too old, the receiver decides.
    latest = int(delivery["Attributes"]["SentTimestamp"])
    bounded = max(sent_ms, 1) if sent_ms <= latest else latest
    return Identity(str(first if redriven else replay_id(first)), bounded)


def replay_id(rejected: UUID) -> UUID:
    """Return the id of the replay of a rejected message."""
    return uuid5(_REPLAYS, str(rejected))


def redrive_attributes(delivery: "MessageTypeDef") -> "dict[str, MessageAttributeValueTypeDef]":
    """Return the attributes with which a dead letter goes back: the identity that it has carried so far, or its own."""
    attributes: dict[str, Any] = dict(delivery.get("MessageAttributes", {}))
    known_as = _carried(delivery)
    if known_as is None:
        known_as = own_identity(delivery)
        attributes.pop(REPLAY_OF, None)
        attributes |= _strings({REDRIVE_OF: known_as.message_id})
    # The time as we read it, so that the next delivery reads the same.
    return attributes | _strings({SENT_MS: str(known_as.sent_ms)})


def replay_attributes(rejected: UUID, sent_ms: int) -> "dict[str, MessageAttributeValueTypeDef]":
    """Return the attributes with which a rejected message is tried again."""
    return _strings({REPLAY_OF: str(rejected), SENT_MS: str(sent_ms)})


def _strings(values: Mapping[str, str]) -> "dict[str, MessageAttributeValueTypeDef]":
    return {name: {"DataType": "String", "StringValue": value} for name, value in values.items()}
