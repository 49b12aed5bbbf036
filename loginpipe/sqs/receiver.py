"""Receiving a bounded bite of the queue with several long polls at once."""

import math
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from hashlib import md5
from typing import TYPE_CHECKING

from loginpipe.common.errors import QueueError
from loginpipe.logins.messages import Message
from loginpipe.sqs.client import BATCH_MOST, Queue, queue_errors
from loginpipe.sqs.identity import identity
from loginpipe.sqs.leases import LeaseKeeper

if TYPE_CHECKING:
    from mypy_boto3_sqs.type_defs import MessageTypeDef

RECEIVERS_FIRST = 4
"""Long polls at once until a full answer says that the queue is deep."""

_MEBIBYTE = 1024 * 1024

BODY_BYTES_MOST = 64 * _MEBIBYTE
"""Bodies in a bite after which no more is asked for. What is under way is reckoned to bring as much as the largest
answer so far, and may bring more."""

BODY_BYTES_KEPT = BODY_BYTES_MOST + RECEIVERS_FIRST * BATCH_MOST * _MEBIBYTE
"""Bodies in a bite at the very most: as much on top as the first answers can bring, each of ten messages of 1 MiB.
Where small messages have made for many receivers and large ones follow, more can be under way: that goes back."""

LONG_POLL_SECONDS = 1
"""Any wait above 0 makes SQS ask all its servers; a longer one would only hold up the end of a drained queue."""


@dataclass
class Received:
    """A bite of the queue.

    Attributes:
        messages: by message id, the newest delivery of each; the order is that of receiving.
        delivery_ids: by message id, what to delete where that is not the message id alone: a message that was sent
            again has another one, and more than one where it was sent again more than once.
        body_bytes: memory that the bodies take: up to four bytes a character.
        empty_receives: long polls that came back empty.
        receivers: how many long polls at once it came to.
        damaged: deliveries handed back at once because the body did not match its MD5.
        drained: receiving stopped because the queue had no more to give, not because the bite was full.
        broken_off: why receiving stopped with messages in hand; they are worked on all the same.
    """

    messages: dict[str, Message] = field(default_factory=dict)
    delivery_ids: dict[str, set[str]] = field(default_factory=dict)
    body_bytes: int = 0
    empty_receives: int = 0
    receivers: int = 0
    damaged: int = 0
    drained: bool = False
    broken_off: QueueError | None = None


def receive_batch(
    queue: Queue,
    leases: LeaseKeeper,
    *,
    most: int,
    seconds: float,
    visibility_seconds: int,
    receivers: int,
) -> Received:
    """Receive until the bite is full, in messages or bytes, the time is up, or the queue has no more to give.

    Args:
        queue: where from.
        leases: takes charge of every message as it arrives, also of those that arrive while this fails.
        most: messages in the bite.
        seconds: longest time of receiving.
        visibility_seconds: lease asked for with each receive.
        receivers: long polls at once, at most: there are more of them the longer SQS takes to answer.

    Raises:
        QueueError: a receive failed for good, and nothing was received before.
    """
    pool = ThreadPoolExecutor(receivers, thread_name_prefix="receive")
    receiving: list[Future[None]] = []
    bite = _Bite(
        queue,
        leases,
        room=most,
        deadline=time.monotonic() + seconds,
        visibility_seconds=visibility_seconds,
        most_receivers=receivers,
        one_more=lambda: receiving.append(pool.submit(bite.receive_until_done)),
    )
    try:
        # Begun in here: a signal that comes while a thread is started must end those that were.
        with bite.lock:
            for _ in range(min(receivers, RECEIVERS_FIRST)):
                bite.start_one()
        # It grows while it is gone through.
        for done in receiving:
            done.result()
    except QueueError as error:
        bite.received.broken_off = error
    finally:
        bite.stop.set()
        with bite.lock:
            # Whoever had not seen it has started its other receiver by now: nobody is missing from those waited for.
            pass
        # Waited for, not joined: interrupted by a second signal in a join, Python before 3.13 takes the thread for
        # ended, and lets the process end before its long poll.
        pool.shutdown(wait=False)
        wait(receiving)
    if bite.received.broken_off is not None and not bite.received.messages:
        raise bite.received.broken_off
    return bite.received


@dataclass
class _Bite:
    """The state that the receiving threads share."""

    queue: Queue
    leases: LeaseKeeper
    room: int
    deadline: float
    visibility_seconds: int
    most_receivers: int
    one_more: Callable[[], None]
    under_way: int = 0
    largest_answer: int = 0
    shortest_wait: float = math.inf
    least_work: float = math.inf
    received: Received = field(default_factory=Received)
    damaged_before: set[str] = field(default_factory=set)
    stop: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def start_one(self) -> None:
        self.received.receivers += 1
        self.one_more()

    def receive_until_done(self) -> None:
        while not self.stop.is_set() and time.monotonic() < self.deadline:
            with self.lock:
                expected = self.received.body_bytes + self.under_way * self.largest_answer
                asked_for = min(BATCH_MOST, self.room) if expected < BODY_BYTES_MOST else 0
                self.room -= asked_for
                self.under_way += bool(asked_for)
            if not asked_for:
                return
            began, worked = time.monotonic(), time.thread_time()
            try:
                got = self.receive(asked_for)
            except BaseException:
                self.stop.set()
                raise
            finally:
                with self.lock:
                    self.under_way -= 1
            if not got:
                with self.lock:
                    self.received.empty_receives += 1
                    self.received.drained = True
                return
            if got == BATCH_MOST:
                self.grow(time.monotonic() - began, time.thread_time() - worked)

    def grow(self, waited: float, worked: float) -> None:
        """Start one receiver more while all of them together leave a core idle: calls wait longer than they work.

        The shortest of each, in seconds: how long a call waits for the other receivers of this process says nothing.
        """
        with self.lock:
            self.shortest_wait = min(self.shortest_wait, waited)
            self.least_work = min(self.least_work, worked)
            busy = self.received.receivers * self.least_work >= self.shortest_wait
            if not busy and self.received.receivers < self.most_receivers and not self.stop.is_set():
                self.start_one()

    def receive(self, most: int) -> int:
        asked = time.monotonic()
        with queue_errors(self.queue.name):
            answer = self.queue.client.receive_message(
                QueueUrl=self.queue.url,
                MaxNumberOfMessages=most,
                WaitTimeSeconds=LONG_POLL_SECONDS,
                VisibilityTimeout=self.visibility_seconds,
                MessageSystemAttributeNames=["SentTimestamp", "ApproximateReceiveCount"],
                MessageAttributeNames=["loginpipe.*"],
            )
            now_ms = time.time_ns() // 1_000_000
            messages = [_message(delivery, now_ms) for delivery in answer.get("Messages", [])]
        self.leases.add(messages, asked)
        # Damage on the way heals by delivering again; a body damaged twice is set aside like any bad one.
        with self.lock:
            damaged = [m for m in messages if not m.body_intact and m.delivery_id not in self.damaged_before]
            self.damaged_before |= {m.delivery_id for m in damaged}
        if damaged:
            self.leases.hand_back(damaged)
        kept = [m for m in messages if m not in damaged] if damaged else messages
        body_bytes = sum([sys.getsizeof(m.body) for m in kept])
        received = self.received
        with self.lock:
            too_much = received.body_bytes + body_bytes > BODY_BYTES_KEPT
            known = len(received.messages)
            for message in kept if not too_much else ():
                if message.delivery_id != message.message_id or message.message_id in received.delivery_ids:
                    self._of_several(message)
                received.messages[message.message_id] = message
            self.largest_answer = max(self.largest_answer, body_bytes)
            received.body_bytes += 0 if too_much else body_bytes
            received.damaged += len(damaged)
            self.room += most - (len(received.messages) - known)
        if too_much:
            self.leases.hand_back(kept)
        return len(messages)

    def _of_several(self, message: Message) -> None:
        """Note one of the deliveries of a message that was sent again, and what came before it. The lock is held."""
        before = self.received.messages.get(message.message_id)
        deliveries = self.received.delivery_ids.setdefault(
            message.message_id, {before.delivery_id} if before else set()
        )
        deliveries.add(message.delivery_id)


def is_intact(delivery: "MessageTypeDef") -> bool:
    """Say whether a body is as SQS sent it: its MD5, which botocore checked once and no longer does, is right."""
    # Lone surrogates, which some endpoints let through, are in no UTF-8.
    digest = md5(delivery["Body"].encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()
    return digest == delivery["MD5OfBody"]


def _message(delivery: "MessageTypeDef", now_ms: int) -> Message:
    body = delivery["Body"]
    known_as = identity(delivery)
    return Message(
        message_id=known_as.message_id,
        delivery_id=delivery["MessageId"],
        receipt_handle=delivery["ReceiptHandle"],
        body=body,
        sent_ms=known_as.sent_ms,
        received_ms=now_ms,
        receive_count=int(delivery["Attributes"]["ApproximateReceiveCount"]),
        body_intact=is_intact(delivery),
    )
