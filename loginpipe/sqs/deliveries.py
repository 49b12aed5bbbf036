"""Make single receive calls, and read the messages of their responses.

A message that is only examined, or cannot be read, returns to the queue at once.

SQS gives a message that is sent again a new id and a new time. Replays and redrives therefore carry attributes with the
first identity, so that the ledger recognizes the message and the login keeps its date.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import md5
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID, uuid5

from loginpipe.common.aws import MALFORMED
from loginpipe.common.errors import QueueError
from loginpipe.logins.messages import Message
from loginpipe.sqs.client import MAX_BATCH, Queue, batched, queue_errors
from loginpipe.sqs.leases import LeaseKeeper

if TYPE_CHECKING:
    from mypy_boto3_sqs.type_defs import MessageAttributeValueTypeDef, MessageTypeDef

    _Attributes = dict[str, MessageAttributeValueTypeDef]

LONG_POLL_SECONDS = 1
"""Any wait above 0 makes SQS ask all its servers. A longer wait would only delay the end of a run."""

# Concurrent calls that extend or return leases, each with ten messages.
_CALLS_AT_ONCE = 8

# Each part of a message that is read, and the name in the error if an endpoint leaves it out.
_PARTS = {
    **{part: part for part in ("ApproximateReceiveCount", "Body", "MD5OfBody", "MessageId", "ReceiptHandle")},
    "Attributes": "SentTimestamp",
    "SentTimestamp": "SentTimestamp",
}

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
    return (_carried(delivery) if "MessageAttributes" in delivery else None) or _own_identity(delivery)


def _own_identity(delivery: "MessageTypeDef") -> Identity:
    return Identity(delivery["MessageId"], int(delivery["Attributes"]["SentTimestamp"]))


def _carried(delivery: "MessageTypeDef") -> Identity | None:
    attributes = {name: value.get("StringValue", "") for name, value in delivery.get("MessageAttributes", {}).items()}
    redriven = attributes.get(REDRIVE_OF)
    try:
        first, sent_ms = UUID(redriven or attributes.get(REPLAY_OF, "")), int(attributes.get(SENT_MS, ""))
    except ValueError:
        return None
    # Only the sender vouches for the time. Here it is limited to the past; the receiver decides if it is too old.
    latest = _own_identity(delivery).sent_ms
    bounded = max(sent_ms, 1) if sent_ms <= latest else latest
    return Identity(str(first if redriven else replay_id(first)), bounded)


def replay_id(rejected: UUID) -> UUID:
    """Return the id of the replay of a rejected message."""
    return uuid5(_REPLAYS, str(rejected))


def redrive_attributes(delivery: "MessageTypeDef") -> "_Attributes":
    """Return the attributes to send a dead letter back with: the identity that it carries, or its own."""
    attributes: dict[str, Any] = dict(delivery.get("MessageAttributes", {}))
    known_as = _carried(delivery)
    if known_as is None:
        known_as = _own_identity(delivery)
        attributes.pop(REPLAY_OF, None)
        attributes |= _strings({REDRIVE_OF: known_as.message_id})
    # The time as read here, so that the next delivery gives the same.
    return attributes | _strings({SENT_MS: str(known_as.sent_ms)})


def replay_attributes(rejected: UUID, sent_ms: int) -> "_Attributes":
    """Return the attributes to send a rejected message again with."""
    return _strings({REPLAY_OF: str(rejected), SENT_MS: str(sent_ms)})


def _strings(values: dict[str, str]) -> "_Attributes":
    return {name: {"DataType": "String", "StringValue": value} for name, value in values.items()}


def receive(
    queue: Queue,
    max_messages: int,
    *system_attributes: str,
    visibility_seconds: int,
    attributes: str = "loginpipe.*",
    long_poll: bool = True,
) -> "list[MessageTypeDef]":
    """Receive with one call, and return the deliveries unread. They have these and the usual system attributes."""
    names: list[Any] = ["SentTimestamp", "ApproximateReceiveCount", *system_attributes]
    # Other implementations may know only the parameter name that AWS has deprecated, and silently leave the attributes
    # out: LocalStack before 3.5, ElasticMQ before 1.6.2, moto 5.0.3.
    deprecated: dict[str, Any] = {} if queue.of_aws else {"AttributeNames": names}
    with queue_errors(queue.name):
        answer = queue.client.receive_message(
            QueueUrl=queue.url,
            MaxNumberOfMessages=max_messages,
            WaitTimeSeconds=LONG_POLL_SECONDS if long_poll else 0,
            VisibilityTimeout=visibility_seconds,
            MessageSystemAttributeNames=names,
            MessageAttributeNames=[attributes],
            **deprecated,
        )
        return answer.get("Messages", [])


def receive_once(
    queue: Queue, max_messages: int, *, visibility_seconds: int, resent_days: int | None = None, long_poll: bool = True
) -> list[Message]:
    """Receive up to ``max_messages`` messages (at most ten) with one call.

    ``visibility_seconds`` is the lease. ``resent_days`` limits how many days ago a replayed or redriven message may
    have been sent first; None for no limit.

    Raises:
        QueueError: the queue cannot be received from, or the response cannot be read; then its messages are returned.
    """
    deliveries = receive(queue, max_messages, visibility_seconds=visibility_seconds, long_poll=long_poll)
    now_ms = time.time_ns() // 1_000_000
    with returned_if_unreadable(queue, deliveries):
        oldest_ms = 0 if resent_days is None else now_ms - resent_days * 86_400_000
        return [message_of(delivery, now_ms, oldest_ms) for delivery in deliveries]


def message_of(delivery: "MessageTypeDef", now_ms: int, oldest_ms: int = 0) -> Message:
    """Return the message of a delivery from SQS's response, or in the same form from Lambda's event.

    Both times are in milliseconds since 1970: ``now_ms`` of the receipt, and ``oldest_ms``, the oldest sent time that a
    replayed or redriven message may claim.
    """
    known_as = identity(delivery)
    # Dated too far back, it keeps its own identity: the message that it claims to be has its own outcome.
    too_old = known_as.sent_ms < oldest_ms and known_as != _own_identity(delivery)
    if too_old:
        known_as = _own_identity(delivery)
    return Message(
        message_id=known_as.message_id,
        delivery_id=delivery["MessageId"],
        receipt_handle=delivery["ReceiptHandle"],
        body=delivery["Body"],
        sent_ms=known_as.sent_ms,
        received_ms=now_ms,
        receive_count=int(delivery["Attributes"]["ApproximateReceiveCount"]),
        body_intact=is_intact(delivery),
        too_old=too_old,
    )


def is_intact(delivery: "MessageTypeDef") -> bool:
    """Return True if the body matches its MD5. botocore no longer checks that."""
    # UTF-8 cannot encode lone surrogates, which some endpoints let through.
    digest = md5(delivery["Body"].encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()
    return digest == delivery["MD5OfBody"]


@contextmanager
def returned_if_unreadable(queue: Queue, deliveries: Any) -> Iterator[None]:
    """Return received messages to the queue at once if reading them fails.

    If they stayed hidden until their visibility timeout ends, others would be received in their place, and run after
    run would bring more messages closer to the dead-letter queue.

    Raises:
        QueueError: a message lacks a part, or does not have SQS's form.
    """
    try:
        yield
    except MALFORMED as error:
        part = error.args[0] if isinstance(error, KeyError) and error.args[0] in _PARTS else None
    else:
        return
    arrived = deliveries if isinstance(deliveries, list) else []
    _return_at_once(queue, [d["ReceiptHandle"] for d in arrived if isinstance(d, dict) and "ReceiptHandle" in d])
    wrong = f"without their {_PARTS[part]}" if part else "of another form than SQS's"
    raise QueueError(
        f"queue {queue.name!r} is at an endpoint that delivers messages {wrong}: upgrade it, or fix AWS_ENDPOINT_URL; "
        "they are back on the queue"
    ) from None


def _return_at_once(queue: Queue, receipt_handles: Iterable[str]) -> None:
    """Make messages visible again. If that fails, they return when their visibility timeout ends."""
    for chunk in batched(receipt_handles):
        queue.change_visibility((str(place), handle, 0) for place, handle in enumerate(chunk))


def try_receiving(queue: Queue, visibility_seconds: int) -> None:
    """Receive a message as a run does, and return it at once. This counts as a receive of that message.

    Raises `QueueError` as `receive_once`.
    """
    messages = receive_once(queue, 1, visibility_seconds=visibility_seconds, long_poll=False)
    _return_at_once(queue, [message.receipt_handle for message in messages])


@contextmanager
def peeked(
    queue: Queue, number: int, *, visibility_seconds: int, resent_days: int | None = None
) -> Iterator[list[Message]]:
    """Receive up to ``number`` messages for a ``with`` block, and make them visible again at its end.

    Each counts as received once more. There are fewer if a receive brings none. Raises `QueueError` as `receive_once`.
    """
    leases = LeaseKeeper(queue, visibility_seconds=visibility_seconds, calls_at_once=_CALLS_AT_ONCE)
    messages: dict[str, Message] = {}
    try:
        while len(messages) < number:
            asked = time.monotonic()
            wanted = min(MAX_BATCH, number - len(messages))
            received = receive_once(queue, wanted, visibility_seconds=visibility_seconds, resent_days=resent_days)
            leases.add(received, asked)
            messages |= {message.message_id: message for message in received}
            if not received:
                break
        yield list(messages.values())
    finally:
        leases.close(at_once=True)
