"""The dead-letter queue: what it holds, and moving that back so that nothing is lost or doubled.

SQS's own redrive gives a message a new id, and the ledger would not know it again. Ours first drops what the ledger
holds, and sends the rest with their first identity: interrupted between send and delete, a message is on both queues
and is still one message.
"""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loginpipe.errors import QueueError
from loginpipe.logins.messages import Message
from loginpipe.sqs.client import BATCH_MOST, Queue, queue_errors
from loginpipe.sqs.entries import call_with_entries, fitting
from loginpipe.sqs.identity import Identity, identity, redrive_attributes
from loginpipe.sqs.leases import LeaseKeeper
from loginpipe.sqs.receiver import is_intact

if TYPE_CHECKING:
    from mypy_boto3_sqs.type_defs import MessageTypeDef

_VISIBILITY_SECONDS = 120
_LONG_POLL_SECONDS = 1


@dataclass(frozen=True)
class RedrivePolicy:
    """Where a queue's messages go that were received too often, and after how many receives."""

    dead_letters: Queue
    max_receives: int


@dataclass
class RedriveCounts:
    """What became of the dead letters looked at.

    Attributes:
        dropped: deleted, since the ledger holds their outcome.
        moved: sent back to the queue and deleted here.
        left: not wanted by the filter, refused, or damaged on the way here; they stay.
    """

    dropped: int = 0
    moved: int = 0
    left: int = 0


def redrive_policy(queue: Queue) -> RedrivePolicy | None:
    """Return a queue's redrive policy, or None where it has none.

    Raises:
        QueueError: the queue cannot be asked, or its dead-letter queue is not there.
    """
    with queue_errors(queue.name):
        attributes = queue.client.get_queue_attributes(QueueUrl=queue.url, AttributeNames=["RedrivePolicy"])
        text = attributes.get("Attributes", {}).get("RedrivePolicy")
        if not text:
            return None
        policy = json.loads(text)
        *_, account, name = policy["deadLetterTargetArn"].split(":")
    with queue_errors(name):
        url = queue.client.get_queue_url(QueueName=name, QueueOwnerAWSAccountId=account)["QueueUrl"]
    return RedrivePolicy(Queue(name, url, queue.client), int(policy["maxReceiveCount"]))


def redrive(
    queue: Queue,
    dead_letters: Queue,
    *,
    recorded: Callable[[Sequence[Identity]], Iterable[str]],
    wanted: Callable[[Identity], bool] = lambda _: True,
    per_second: float | None = None,
    dry_run: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> RedriveCounts:
    """Drop the dead letters that have an outcome, and move the others back to the queue.

    May be interrupted at any point and begun again.

    Args:
        queue: where they go.
        dead_letters: where they are.
        recorded: returns the message ids among these that the ledger holds.
        wanted: says which dead letters to move or drop.
        per_second: most messages moved in a second.
        dry_run: only count.
        progress: told the number of dead letters looked at, batch by batch.

    Raises:
        QueueError: one of the queues cannot be used.
    """
    counts = RedriveCounts()
    leases = LeaseKeeper(dead_letters, visibility_seconds=_VISIBILITY_SECONDS, calls_at_once=4)
    began = time.monotonic()
    try:
        while deliveries := _received(dead_letters, leases):
            by_id: dict[str, list[MessageTypeDef]] = {}
            for delivery in deliveries:
                if is_intact(delivery) and wanted(identity(delivery)):
                    by_id.setdefault(identity(delivery).message_id, []).append(delivery)
            known = set(recorded([identity(copies[0]) for copies in by_id.values()])) if by_id else set()
            # Copies of one message are one message: the first is moved, the others go with it.
            dropped = [copies for message_id, copies in by_id.items() if message_id in known]
            moved = [copies for message_id, copies in by_id.items() if message_id not in known]
            if not dry_run:
                sent = {d["MessageId"] for d in _sent(queue, [copies[0] for copies in moved])}
                moved = [copies for copies in moved if copies[0]["MessageId"] in sent]
                gone = _deleted(dead_letters, leases, [d for copies in (*dropped, *moved) for d in copies])
                dropped = [copies for copies in dropped if gone.issuperset(d["MessageId"] for d in copies)]
            counts.dropped += len(dropped)
            counts.moved += len(moved)
            counts.left += len(deliveries) - sum(map(len, (*dropped, *moved)))
            progress(len(deliveries))
            if per_second and not dry_run:
                time.sleep(max(0.0, began + counts.moved / per_second - time.monotonic()))
    finally:
        leases.close(at_once=True)
    return counts


def _received(dead_letters: Queue, leases: LeaseKeeper) -> "list[MessageTypeDef]":
    asked = time.monotonic()
    with queue_errors(dead_letters.name):
        answer = dead_letters.client.receive_message(
            QueueUrl=dead_letters.url,
            MaxNumberOfMessages=BATCH_MOST,
            WaitTimeSeconds=_LONG_POLL_SECONDS,
            VisibilityTimeout=_VISIBILITY_SECONDS,
            MessageSystemAttributeNames=["SentTimestamp", "ApproximateReceiveCount", "MessageGroupId"],
            MessageAttributeNames=["All"],
        )
    deliveries = answer.get("Messages", [])
    leases.add([_message(d) for d in deliveries], asked)
    return deliveries


def _sent(queue: Queue, deliveries: "Sequence[MessageTypeDef]") -> "list[MessageTypeDef]":
    """Send dead letters to the queue and return those whose sending is confirmed."""

    def entry(delivery: "MessageTypeDef") -> dict[str, Any]:
        content: dict[str, Any] = {"MessageBody": delivery["Body"], "MessageAttributes": redrive_attributes(delivery)}
        if queue.name.endswith(".fifo"):
            content["MessageGroupId"] = delivery["Attributes"]["MessageGroupId"]
            content["MessageDeduplicationId"] = delivery["MessageId"]
        return content

    failed = [
        failure
        for batch in fitting([(d["MessageId"], entry(d)) for d in deliveries])
        for failure in call_with_entries(
            lambda entries: queue.client.send_message_batch(QueueUrl=queue.url, Entries=entries), batch
        )
    ]
    if failed and len(failed) == len(deliveries) and failed[0].of_call:
        raise QueueError(f"queue {queue.name!r} takes no messages back ({failed[0].code}): the dead letters stay")
    refused = {f.delivery_id for f in failed}
    return [d for d in deliveries if d["MessageId"] not in refused]


def _deleted(dead_letters: Queue, leases: LeaseKeeper, deliveries: "Sequence[MessageTypeDef]") -> set[str]:
    """Delete dead letters and return the ids of those whose delete is confirmed."""
    failed = call_with_entries(
        lambda entries: dead_letters.client.delete_message_batch(QueueUrl=dead_letters.url, Entries=entries),
        {d["MessageId"]: {"ReceiptHandle": d["ReceiptHandle"]} for d in deliveries},
    )
    gone = {d["MessageId"] for d in deliveries} - {f.delivery_id for f in failed}
    leases.settle(gone)
    return gone


def _message(delivery: "MessageTypeDef") -> Message:
    known_as = identity(delivery)
    return Message(
        message_id=known_as.message_id,
        delivery_id=delivery["MessageId"],
        receipt_handle=delivery["ReceiptHandle"],
        body="",
        sent_ms=known_as.sent_ms,
        received_ms=0,
        receive_count=int(delivery["Attributes"]["ApproximateReceiveCount"]),
        body_intact=True,
    )
