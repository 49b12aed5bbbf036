"""The dead-letter queue: what it holds, and moving that back so that nothing is lost or doubled.

SQS's own redrive gives a message a new id, and the ledger would not know it again. Ours first drops what the ledger
holds, and sends the rest with their first identity: interrupted between send and delete, a message is on both queues
and is still one message.

A dead-letter queue may serve several queues. Which queue a dead letter is of can be seen only by receiving it, so those
that watch the depth count them by owner only where other queues share it, and every ten minutes.
"""

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from loginpipe.common.aws import DENIED, error_code
from loginpipe.common.errors import QueueError
from loginpipe.logins.messages import Message
from loginpipe.sqs.client import MAX_BATCH, Queue, queue_errors
from loginpipe.sqs.deliveries import LONG_POLL_SECONDS, is_intact, returned_if_unreadable
from loginpipe.sqs.depth import Depth, read_depth
from loginpipe.sqs.entries import FailedEntry, call_with_entries
from loginpipe.sqs.identity import Identity, identity, redrive_attributes
from loginpipe.sqs.leases import LeaseKeeper
from loginpipe.sqs.sending import send_again

if TYPE_CHECKING:
    from mypy_boto3_sqs.type_defs import MessageTypeDef

    _Copies = list[MessageTypeDef]

_VISIBILITY_SECONDS = 120
# Dead letters received to count their owners. Each is hidden meanwhile, and counts as received once more.
_MAX_COUNTED = 1_000
# How long a count by owner is good for those that ask every few seconds.
_COUNTED_SECONDS = 600
_LISTED_AT_ONCE = 1_000
# Seconds between the attempts to delete, less a jitter of up to half.
_DELETE_PAUSES = (0.2, 0.4, 0.8, 1.6, 3.2)


@dataclass(frozen=True)
class RedrivePolicy:
    """Where a queue's messages go that were received too often, and after how many receives."""

    dead_letters: Queue
    max_receives: int


@dataclass
class Owners:
    """Whose the dead letters are that were looked at.

    Attributes:
        ours: of the queue.
        others: of other queues.
        all: nothing was left to look at.
    """

    ours: int = 0
    others: int = 0
    all: bool = True


@dataclass(frozen=True)
class DeadLetterDepth(Depth):
    """The depth of a dead-letter queue, and whose its dead letters are.

    Attributes:
        others: how many other queues' dead letters go there too; None where that may not be asked.
        owners: whose they were when they were last counted; None where no other queue shares the dead-letter queue, or
            they could not be counted.
    """

    others: int | None = 0
    owners: Owners | None = None

    @property
    def ours(self) -> int:
        """How many are of the queue: all of them where that is not known."""
        return self.total if self.owners is None else min(self.owners.ours, self.total)

    def __str__(self) -> str:
        """Say how much there is, and whose it is."""
        whose = shared_by(self.others)
        if not whose:
            return super().__str__()
        if self.owners is None:
            return f"{super().__str__()}, {whose}: `loginpipe dlq status` counts which are ours"
        rest = "" if self.owners.all else f", of the first {self.owners.ours + self.owners.others:,}"
        return f"{self.ours:,} ours and {self.owners.others:,} not ours{rest}, {whose}"


# By the URL of the queue: when its dead letters were counted by owner, in monotonic seconds, and the result.
_counted: dict[str, tuple[float, Owners | None]] = {}


@dataclass
class RedriveCounts:
    """What became of the dead letters looked at.

    Attributes:
        dropped: deleted, since the ledger holds their outcome.
        moved: sent back to the queue and deleted here.
        left: not wanted by the filter, refused, or damaged on the way here; they stay.
        refused: by code, those that could not be sent, or not be deleted although they were sent or have an outcome.
        others: dead letters of other queues; they stay, and are among none of the above.
    """

    dropped: int = 0
    moved: int = 0
    left: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    others: int = 0


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


def read_dead_letters(queue: Queue) -> DeadLetterDepth | None:
    """Ask for the depth of a queue's dead-letter queue, and where it is not empty, whose it is; None without one.

    Where other queues share it, up to a thousand are received to be counted, at most every ten minutes in a process.

    Raises:
        QueueError: as `redrive_policy`; the dead-letter queue cannot be asked.
    """
    policy = redrive_policy(queue)
    if policy is None:
        return None
    depth = read_depth(policy.dead_letters)
    others = other_sources(queue, policy.dead_letters) if depth.total else 0
    owners = _owners(queue, policy.dead_letters) if others else None
    return DeadLetterDepth(depth.visible, depth.in_flight, depth.delayed, others, owners)


def _owners(queue: Queue, dead_letters: Queue) -> Owners | None:
    """Return whose the dead letters were within the last ten minutes; None where they cannot be received."""
    at, owners = _counted.get(queue.url, (0.0, None))
    if at and time.monotonic() - at < _COUNTED_SECONDS:
        return owners
    owners = None
    # From a queue with a redrive policy of its own, one more receive may move a message on.
    with suppress(QueueError):
        if redrive_policy(dead_letters) is None:
            owners = count_owners(queue, dead_letters)
    if owners is not None and not owners.ours + owners.others:
        # All are hidden: another consumer has received them just now.
        return None
    _counted[queue.url] = time.monotonic(), owners
    return owners


def other_sources(queue: Queue, dead_letters: Queue) -> int | None:
    """Return how many other queues' dead letters go to a queue's dead-letter queue; None where that may not be asked.

    An endpoint that does not know the question is no AWS, and has no queues of others.

    Raises:
        QueueError: the endpoint does not answer.
    """
    from botocore.exceptions import ClientError

    names: set[str] = set()
    more: dict[str, Any] = {"MaxResults": _LISTED_AT_ONCE}
    with queue_errors(dead_letters.name):
        while more:
            try:
                answer = dead_letters.client.list_dead_letter_source_queues(QueueUrl=dead_letters.url, **more)
            except ClientError as error:
                if error_code(error) in DENIED:
                    return None
                if queue.of_aws:
                    raise
                return 0
            # By name: the host in a URL may be another one, and all of these are in one account and region.
            names.update(url.rpartition("/")[2] for url in answer.get("queueUrls", []))
            token = answer.get("NextToken")
            more = {"MaxResults": _LISTED_AT_ONCE, "NextToken": token} if token else {}
    return len(names - {queue.name})


def shared_by(others: int | None) -> str:
    """Say with how many other queues a dead-letter queue is shared; nothing where it is not."""
    if others is None:
        return "perhaps of other queues too (grant sqs:ListDeadLetterSourceQueues)"
    if not others:
        return ""
    return f"in a dead-letter queue shared with {others:,} other queue{'s' if others > 1 else ''}"


def count_owners(queue: Queue, dead_letters: Queue) -> Owners:
    """Count which dead letters are a queue's own, of up to a thousand: receive them, and return them at once.

    Raises:
        QueueError: one of the queues cannot be used.
    """
    is_ours = _ownership(queue, dead_letters)
    owners = Owners()
    # One call at a time: who watches the depth has one connection.
    leases = LeaseKeeper(dead_letters, visibility_seconds=_VISIBILITY_SECONDS, calls_at_once=1)
    try:
        while deliveries := _received(dead_letters, leases):
            ours = sum(map(is_ours, deliveries))
            owners.ours += ours
            owners.others += len(deliveries) - ours
            if owners.ours + owners.others >= _MAX_COUNTED:
                owners.all = False
                break
    finally:
        leases.close(at_once=True)
    return owners


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
    """Drop the dead letters of a queue that have an outcome, and move the others back to the queue.

    Those of other queues stay untouched, hidden until the end. May be interrupted at any point and started again.

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
    is_ours = _ownership(queue, dead_letters)
    counts = RedriveCounts()
    leases = LeaseKeeper(dead_letters, visibility_seconds=_VISIBILITY_SECONDS, calls_at_once=4)
    began, sent = time.monotonic(), 0
    try:
        while found := _received(dead_letters, leases):
            deliveries = list(filter(is_ours, found))
            counts.others += len(found) - len(deliveries)
            dropped, moved = _sorted(deliveries, recorded, wanted)
            undeleted: list[FailedEntry] = []
            if not dry_run:
                unsent = _send(queue, [copies[0] for copies in moved])
                moved = _without(moved, unsent)
                sent += len(moved)
                undeleted = _delete(dead_letters, leases, [d for copies in (*dropped, *moved) for d in copies])
                dropped, moved = _without(dropped, undeleted), _without(moved, undeleted)
                counts.refused += Counter(failure.code for failure in (*unsent, *undeleted))
            counts.dropped += len(dropped)
            counts.moved += len(moved)
            counts.left += len(deliveries) - sum(map(len, (*dropped, *moved)))
            progress(len(found))
            if undeleted and undeleted[0].of_call:
                # Going on would send copies of everything, and delete nothing.
                break
            if per_second and not dry_run:
                time.sleep(max(0.0, began + sent / per_second - time.monotonic()))
    finally:
        leases.close(at_once=True)
    return counts


def _ownership(queue: Queue, dead_letters: Queue) -> "Callable[[MessageTypeDef], bool]":
    """Return what says whether a dead letter is of this queue."""
    with queue_errors(queue.name):
        answer = queue.client.get_queue_attributes(QueueUrl=queue.url, AttributeNames=["QueueArn"])
        arn = answer["Attributes"]["QueueArn"]
    # One that was sent to the dead-letter queue as to any other is ours where no other queue has dead letters there.
    alone = other_sources(queue, dead_letters) == 0

    def is_ours(delivery: "MessageTypeDef") -> bool:
        source = delivery["Attributes"].get("DeadLetterQueueSourceArn")
        return source == arn if source else alone

    return is_ours


def _sorted(
    deliveries: "Sequence[MessageTypeDef]",
    recorded: Callable[[Sequence[Identity]], Iterable[str]],
    wanted: Callable[[Identity], bool],
) -> "tuple[list[_Copies], list[_Copies]]":
    """Return the dead letters to drop and those to move; copies of one message are one: they go together."""
    by_id: dict[str, _Copies] = {}
    for delivery in deliveries:
        if is_intact(delivery) and wanted(identity(delivery)):
            by_id.setdefault(identity(delivery).message_id, []).append(delivery)
    known = set(recorded([identity(copies[0]) for copies in by_id.values()])) if by_id else set()
    return (
        [copies for message_id, copies in by_id.items() if message_id in known],
        [copies for message_id, copies in by_id.items() if message_id not in known],
    )


def _without(messages: "Sequence[_Copies]", failed: Sequence[FailedEntry]) -> "list[_Copies]":
    """Return the messages of which no copy failed."""
    ids = {failure.delivery_id for failure in failed}
    return [copies for copies in messages if ids.isdisjoint(delivery["MessageId"] for delivery in copies)]


def _received(dead_letters: Queue, leases: LeaseKeeper) -> "list[MessageTypeDef]":
    asked = time.monotonic()
    with queue_errors(dead_letters.name):
        answer = dead_letters.client.receive_message(
            QueueUrl=dead_letters.url,
            MaxNumberOfMessages=MAX_BATCH,
            WaitTimeSeconds=LONG_POLL_SECONDS,
            VisibilityTimeout=_VISIBILITY_SECONDS,
            **dead_letters.asking_for(
                "SentTimestamp", "ApproximateReceiveCount", "MessageGroupId", "DeadLetterQueueSourceArn"
            ),
            MessageAttributeNames=["All"],
        )
        deliveries = answer.get("Messages", [])
    with returned_if_unreadable(dead_letters, deliveries):
        messages = [_message(delivery) for delivery in deliveries]
    leases.add(messages, asked)
    return deliveries


def _send(queue: Queue, deliveries: "Sequence[MessageTypeDef]") -> list[FailedEntry]:
    """Send dead letters to the queue, and return those that it refuses."""

    def entry(delivery: "MessageTypeDef") -> dict[str, Any]:
        content: dict[str, Any] = {"MessageBody": delivery["Body"], "MessageAttributes": redrive_attributes(delivery)}
        if queue.name.endswith(".fifo"):
            content["MessageGroupId"] = delivery["Attributes"]["MessageGroupId"]
            content["MessageDeduplicationId"] = delivery["MessageId"]
        return content

    return send_again(queue, {d["MessageId"]: entry(d) for d in deliveries})


def _delete(dead_letters: Queue, leases: LeaseKeeper, deliveries: "Sequence[MessageTypeDef]") -> list[FailedEntry]:
    """Delete dead letters, trying again what is refused while it is ours, and return those that stay."""
    staying: dict[str, FailedEntry] = {}
    pending = {d["MessageId"] for d in deliveries}
    for pause in (*_DELETE_PAUSES, None):
        handles = leases.handles(pending)
        failed = call_with_entries(
            lambda entries: dead_letters.client.delete_message_batch(QueueUrl=dead_letters.url, Entries=entries),
            {delivery_id: {"ReceiptHandle": handle} for delivery_id, handle in handles.items()},
        )
        staying = {i: failure for i, failure in staying.items() if i not in handles}
        staying |= {failure.delivery_id: failure for failure in failed}
        leases.settle(handles.keys() - staying.keys())
        pending = leases.not_deleted(staying)
        if not pending or pause is None:
            break
        time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - spreads load, hides nothing
    return list(staying.values())


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
