"""Show what the dead-letter queue holds, and move it back without loss or duplicates. Failures are `QueueError`s.

SQS's own redrive gives a message a new id, so the ledger would not recognize it. This redrive first drops the messages
that the ledger holds, and sends the others with their first identity. If it is interrupted between send and delete, a
message is on both queues but is still one message.

Several queues may share a dead-letter queue. Only receiving a dead letter shows which queue it comes from. So a depth
check counts the dead letters by owner only if other queues share the dead-letter queue, and at most every ten minutes.
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
from loginpipe.common.settings import name_of_queue
from loginpipe.sqs.client import MAX_BATCH, Depth, FailedEntry, Queue, queue_errors, read_depth
from loginpipe.sqs.deletion import delete_ten
from loginpipe.sqs.deliveries import (
    Identity,
    identity,
    is_intact,
    message_of,
    receive,
    redrive_attributes,
    returned_if_unreadable,
)
from loginpipe.sqs.leases import LeaseKeeper
from loginpipe.sqs.sending import send_again

if TYPE_CHECKING:
    from mypy_boto3_sqs.type_defs import MessageTypeDef

    _Copies = list[MessageTypeDef]

_VISIBILITY_SECONDS = 120
# The limit of dead letters to receive for a count by owner. Each is hidden for that time and counts as received again.
_MAX_COUNTED = 1_000
# How long a count by owner is valid for checks that run every few seconds.
_COUNTED_SECONDS = 600
# Seconds between attempts to delete; a random jitter takes off up to half.
_DELETE_PAUSES = (0.2, 0.4, 0.8, 1.6, 3.2)


@dataclass(frozen=True)
class RedrivePolicy:
    """The queue that receives a queue's dead letters, and after how many receives."""

    dead_letters: Queue
    max_receives: int


@dataclass
class Owners:
    """The number of counted dead letters of this queue and of others; `all` is True if none were left to count."""

    ours: int = 0
    others: int = 0
    all: bool = True


@dataclass(frozen=True)
class DeadLetterDepth(Depth):
    """The depth of a dead-letter queue, and the owners of its dead letters.

    Attributes:
        others: number of other queues that use it, 0 if it is empty; None if asking is not permitted.
        owners: the owners at the last count; None if no other queue shares it, or if they could not be counted.
    """

    others: int | None = 0
    owners: Owners | None = None

    @property
    def ours(self) -> int:
        """Return the number of dead letters of the queue, or of all dead letters if that is not known."""
        return self.total if self.owners is None else min(self.owners.ours, self.total)

    def __str__(self) -> str:
        whose = shared_by(self.others)
        if not whose:
            return super().__str__()
        if self.owners is None:
            return f"{super().__str__()}, {whose}: `loginpipe dlq status` counts which are ours"
        rest = "" if self.owners.all else f", of the first {self.owners.ours + self.owners.others:,}"
        return f"{self.ours:,} ours and {self.owners.others:,} not ours{rest}, {whose}"


# Queue URL → monotonic time in seconds of its last count by owner, and the result.
_counted: dict[str, tuple[float, Owners | None]] = {}


@dataclass
class RedriveCounts:
    """The results of a redrive, in dead letters.

    Attributes:
        dropped: deleted, because the ledger holds their outcome.
        moved: sent back to the queue and deleted here.
        left: excluded by the filter, refused, or damaged on the way here; they stay.
        refused: error code → those that could not be sent, and those sent or with an outcome that could not be deleted.
        others: dead letters of other queues; they stay, and no other count includes them.
    """

    dropped: int = 0
    moved: int = 0
    left: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    others: int = 0


def redrive_policy(queue: Queue) -> RedrivePolicy | None:
    """Return a queue's redrive policy, or None if it has none."""
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
    """Return the depth of a queue's dead-letter queue and the owners of the dead letters; None without such a queue.

    If other queues share it, up to a thousand dead letters are received for the count, at most every ten minutes in a
    process.
    """
    policy = redrive_policy(queue)
    if policy is None:
        return None
    depth = read_depth(policy.dead_letters)
    others = other_sources(queue, policy.dead_letters) if depth.total else 0
    owners = _owners(queue, policy.dead_letters) if others else None
    return DeadLetterDepth(depth.visible, depth.in_flight, depth.delayed, others, owners)


def _owners(queue: Queue, dead_letters: Queue) -> Owners | None:
    """Return a count by owner that is at most ten minutes old; None if the dead letters cannot be received."""
    at, owners = _counted.get(queue.url, (0.0, None))
    if at and time.monotonic() - at < _COUNTED_SECONDS:
        return owners
    owners = None
    # If the dead-letter queue has a redrive policy of its own, one more receive may move a message on.
    with suppress(QueueError):
        if redrive_policy(dead_letters) is None:
            owners = count_owners(queue, dead_letters)
    if owners is not None and not owners.ours + owners.others:
        # All are hidden, because another consumer has just received them.
        return None
    _counted[queue.url] = time.monotonic(), owners
    return owners


def other_sources(queue: Queue, dead_letters: Queue) -> int | None:
    """Return how many other queues use a queue's dead-letter queue; None if asking is not permitted.

    An endpoint that does not support the call is not AWS, and has no queues of others.
    """
    from botocore.exceptions import ClientError

    paginator = dead_letters.client.get_paginator("list_dead_letter_source_queues")
    pages = paginator.paginate(QueueUrl=dead_letters.url, PaginationConfig={"PageSize": 1000})
    with queue_errors(dead_letters.name):
        try:
            # Compared by name, because the host of a URL may differ, and all are in one account and region.
            names = {name_of_queue(url) for page in pages for url in page.get("queueUrls", [])}
        except ClientError as error:
            if error_code(error) in DENIED:
                return None
            if queue.of_aws:
                raise
            return 0
    return len(names - {queue.name})


def shared_by(others: int | None) -> str:
    """Describe how many other queues share a dead-letter queue; empty if none does."""
    if others is None:
        return "perhaps of other queues too (grant sqs:ListDeadLetterSourceQueues)"
    if not others:
        return ""
    return f"in a dead-letter queue shared with {others:,} other queue{'s' if others > 1 else ''}"


def count_owners(queue: Queue, dead_letters: Queue) -> Owners:
    """Count how many of up to a thousand dead letters are a queue's own. They are received and returned at once."""
    is_ours = _ownership(queue, dead_letters)
    owners = Owners()
    # One call at a time, because the client of a depth check has one connection.
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
    """Drop a queue's dead letters that have an outcome, and move the others back to the queue.

    Dead letters of other queues stay, hidden until the end. You may interrupt it at any point and start it again.

    ``recorded`` returns those of the given message ids that the ledger holds. ``wanted`` returns True for dead letters
    to move or drop. ``per_second`` limits the messages moved per second, ``dry_run`` only counts, and ``progress`` is
    called with the number of dead letters received, batch by batch.
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
                # Continuing would send copies of all messages, and delete none.
                break
            if per_second and not dry_run:
                time.sleep(max(0.0, began + sent / per_second - time.monotonic()))
    finally:
        leases.close(at_once=True)
    return counts


def _ownership(queue: Queue, dead_letters: Queue) -> "Callable[[MessageTypeDef], bool]":
    """Return a predicate that is True for the dead letters of this queue."""
    with queue_errors(queue.name):
        answer = queue.client.get_queue_attributes(QueueUrl=queue.url, AttributeNames=["QueueArn"])
        arn = answer["Attributes"]["QueueArn"]
    # A message sent directly to the dead-letter queue is ours if no other queue uses that queue.
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
    """Return the dead letters to drop and those to move. The copies of one message stay together."""
    by_id: dict[str, _Copies] = {}
    for delivery in deliveries:
        if is_intact(delivery) and wanted(identity(delivery)):
            by_id.setdefault(identity(delivery).message_id, []).append(delivery)
    known = set(recorded([identity(copies[0]) for copies in by_id.values()])) if by_id else set()
    return [by_id[i] for i in by_id if i in known], [by_id[i] for i in by_id if i not in known]


def _without(messages: "Sequence[_Copies]", failed: Sequence[FailedEntry]) -> "list[_Copies]":
    """Return the messages of which no copy failed."""
    ids = {failure.delivery_id for failure in failed}
    return [copies for copies in messages if ids.isdisjoint(delivery["MessageId"] for delivery in copies)]


def _received(dead_letters: Queue, leases: LeaseKeeper) -> "list[MessageTypeDef]":
    asked = time.monotonic()
    further = ("MessageGroupId", "DeadLetterQueueSourceArn")
    deliveries = receive(dead_letters, MAX_BATCH, *further, visibility_seconds=_VISIBILITY_SECONDS, attributes="All")
    with returned_if_unreadable(dead_letters, deliveries):
        messages = [message_of(delivery, 0) for delivery in deliveries]
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
    """Delete dead letters, retry those refused while their lease is held, and return those that stay."""
    staying: dict[str, FailedEntry] = {}
    pending = {d["MessageId"] for d in deliveries}
    for pause in (*_DELETE_PAUSES, None):
        _, failed = delete_ten(dead_letters, leases, pending)
        staying = {i: failure for i, failure in staying.items() if i not in pending}
        staying |= {failure.delivery_id: failure for failure in failed}
        pending = leases.not_deleted(staying)
        if not pending or pause is None:
            break
        time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - spreads load, needs no secrecy
    return list(staying.values())
