"""Receive in the background: fill one batch while another is processed."""

import math
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from loginpipe.logins.messages import Message
from loginpipe.sqs.client import MAX_BATCH, Queue
from loginpipe.sqs.deliveries import receive_once
from loginpipe.sqs.leases import LeaseKeeper

_MEBIBYTE = 1024 * 1024

MAX_BODY_BYTES = 32 * _MEBIBYTE
"""The size of the bodies in a batch at which receiving pauses.

Each receive in flight is assumed to bring as much as the largest response so far, and may bring more.
"""

MAX_KEPT_BODY_BYTES = MAX_BODY_BYTES + 4 * MAX_BATCH * _MEBIBYTE
"""The maximum size of the bodies in a batch. It leaves room for four receives of ten messages of 1 MiB.

If large messages follow small ones, more receives can be in flight; their messages return to the queue.
"""

# The longest pause after a partly filled response, so that the next call is worth its cost. The fuller, the shorter.
_MAX_PAUSE_SECONDS = 0.1
# If a response has fewer messages than this, one receiver fewer is enough.
_FEW = MAX_BATCH // 2


@dataclass
class Received:
    """A batch of messages.

    Attributes:
        messages: message id → its newest delivery, in the order of receiving.
        delivery_ids: message id → the ids to delete, if these are not the message id alone: a message that was sent
            again has other ids, one for each time.
        body_bytes: memory of the bodies, up to four bytes a character.
        redelivered: messages that this run or another had received before.
        first_at: monotonic time of the first message; None while there is none.
    """

    messages: dict[str, Message] = field(default_factory=dict)
    delivery_ids: dict[str, set[str]] = field(default_factory=dict)
    body_bytes: int = 0
    redelivered: int = 0
    first_at: float | None = None


@dataclass
class ReceiveCounts:
    """Counts so far: empty long polls, deliveries returned because of damage, and the most concurrent long polls."""

    empty_receives: int = 0
    corrupt: int = 0
    receivers: int = 0


@dataclass(eq=False, repr=False, kw_only=True)
class Receiver:
    """Receives with several concurrent long polls, and gives batch after batch. Call `next_batch` from one thread only.

    The number of long polls grows with SQS's response time and the queue's depth, and falls to one if few messages
    come. Besides the batches already given, at most one is held.

    Attributes:
        leases: keeps each message from its arrival.
        batch_messages: the maximum number of messages in a batch.
        linger_seconds: how long a batch waits for more after its first message.
        visibility_seconds: the lease of each receive.
        receivers: the maximum number of concurrent long polls.
        resent_days: as in `receive_once`.
    """

    queue: Queue = field(kw_only=False)
    leases: LeaseKeeper = field(kw_only=False)
    batch_messages: int
    linger_seconds: float
    visibility_seconds: int
    receivers: int
    resent_days: int | None = None

    def __post_init__(self) -> None:
        self.counts = ReceiveCounts()
        self._limit = self.batch_messages
        self._pool = ThreadPoolExecutor(self.receivers, thread_name_prefix="receive")
        self._receiving: list[Future[None]] = []
        self._changed = threading.Condition()
        self._stop = threading.Event()
        # The receiving threads share all attributes below, under the lock of `_changed`.
        self._batch = Received()
        self._receivers = 0
        self._polls = 0
        self._asked_for = 0
        self._waiting = 0
        self._largest_answer = 0
        self._shortest_wait = math.inf
        self._least_work = math.inf
        self._corrupt_before: set[str] = set()
        self._empty_since: float | None = None
        self._failure: Exception | None = None

    def start(self) -> None:
        """Start receiving."""
        with self._changed:
            self._start_one()

    def limit_batches(self, messages: int | None) -> None:
        """Limit batches to this many messages from now on; None restores the limit set at the start."""
        limit = self.batch_messages if messages is None else min(messages, self.batch_messages)
        with self._changed:
            if limit != self._limit:
                self._limit = limit
                self._changed.notify_all()

    @property
    def idle_since(self) -> float | None:
        """Return the monotonic time since when the queue has been empty; None if it is not, or may not be."""
        with self._changed:
            return None if self._batch.messages else self._empty_since

    def next_batch(self, wait_seconds: float) -> Received | None:
        """Return the next batch when it is full or has lingered; None if that takes longer than ``wait_seconds``.

        After `stop` it returns what has been received, at once.

        Raises:
            QueueError: a receive failed permanently; what was received before was given.
        """
        until = time.monotonic() + wait_seconds
        with self._changed:
            while (closes := self._closes_at()) > (now := time.monotonic()):
                if self._failure is not None and not self._batch.messages:
                    raise self._failure
                if now >= until or (self._stop.is_set() and not self._batch.messages):
                    return None
                self._changed.wait(min(closes, until) - now)
            given, self._batch = self._batch, Received()
            self._changed.notify_all()
        return given

    def stop(self, *, wait_seconds: float | None = None) -> None:
        """Start no more long polls, and wait for those in flight. `next_batch` gives what they bring.

        Waits at most ``wait_seconds``, or as long as the client does if that is None.
        """
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        # wait() instead of a join: if a second signal interrupts a join, Python before 3.13 takes the thread as ended,
        # and lets the process end before its long poll.
        self._pool.shutdown(wait=False)
        wait(self._receiving, wait_seconds)

    def _closes_at(self) -> float:
        """Return when the batch is to be given. The lock is held."""
        batch = self._batch
        if batch.first_at is None:
            return math.inf
        full = len(batch.messages) >= self._limit or (not self._polls and not self._room())
        if full or self._stop.is_set() or self._failure is not None or batch.body_bytes >= MAX_BODY_BYTES:
            return -math.inf
        return batch.first_at + self.linger_seconds

    def _room(self) -> int:
        """Return how many messages may be requested now. The lock is held."""
        expected = self._batch.body_bytes + self._polls * self._largest_answer
        if expected >= MAX_BODY_BYTES:
            return 0
        return max(0, min(MAX_BATCH, self._limit - len(self._batch.messages) - self._asked_for))

    def _start_one(self) -> None:
        """Start one more receiver. The lock is held."""
        self._receivers += 1
        self.counts.receivers = max(self.counts.receivers, self._receivers)
        self._receiving = [done for done in self._receiving if not done.done()]
        self._receiving.append(self._pool.submit(self._receive_until_done))

    def _receive_until_done(self) -> None:
        try:
            while (asked_for := self._ask_for()) and self._receive_and_pause(asked_for):
                pass
        except Exception as error:  # noqa: BLE001 - raised by next_batch
            self._stop.set()
            with self._changed:
                self._failure = error
        finally:
            with self._changed:
                self._changed.notify_all()

    def _ask_for(self) -> int:
        """Wait for room in the batch, and return how many messages to request; 0 at the end of receiving."""
        with self._changed:
            while not self._stop.is_set():
                if room := self._room():
                    self._asked_for += room
                    self._polls += 1
                    return room
                self._waiting += 1
                self._changed.wait()
                self._waiting -= 1
        return 0

    def _receive_and_pause(self, asked_for: int) -> bool:
        """Receive once; return True if this receiver is to continue."""
        began, worked = time.monotonic(), time.thread_time()
        got = 0
        try:
            got = self._receive(asked_for)
        finally:
            with self._changed:
                self._asked_for -= asked_for
                self._polls -= 1
                # Not each time, because a needless wake-up costs as much as a part of the call.
                if self._waiting or self._closes_at() == -math.inf:
                    self._changed.notify_all()
        if got == MAX_BATCH:
            self._grow(time.monotonic() - began, time.thread_time() - worked)
        if got == asked_for:
            return True
        with self._changed:
            if not got:
                self.counts.empty_receives += 1
                if not self._batch.messages and not self._polls and self._empty_since is None:
                    self._empty_since = began
            if got < _FEW and self._receivers > 1:
                # Counted here and not at its end: if two stop at the same time, each would count the other.
                self._receivers -= 1
                return False
        if got:
            self._stop.wait(_MAX_PAUSE_SECONDS * (1 - got / MAX_BATCH))
        return True

    def _grow(self, waited: float, worked: float) -> None:
        """Start one more receiver if a core is idle: the calls wait longer than all receivers work.

        Uses the shortest wait and the least work so far, in seconds, because other calls also waited for receivers of
        this process.
        """
        with self._changed:
            self._shortest_wait = min(self._shortest_wait, waited)
            self._least_work = min(self._least_work, worked)
            busy = self._receivers * self._least_work >= self._shortest_wait
            if not busy and self._receivers < self.receivers and not self._stop.is_set():
                self._start_one()

    def _receive(self, asked_for: int) -> int:
        asked = time.monotonic()
        messages = receive_once(
            self.queue, asked_for, visibility_seconds=self.visibility_seconds, resent_days=self.resent_days
        )
        if not messages:
            return 0
        self.leases.add(messages, asked)
        # A body damaged on the way is intact when delivered again. If it is damaged twice, it is rejected.
        corrupt = [m for m in messages if not m.body_intact and self._is_first_damage(m.delivery_id)]
        if corrupt:
            self.leases.return_to_queue(corrupt)
        kept = [m for m in messages if m not in corrupt] if corrupt else messages
        if not self._keep(kept, corrupt=len(corrupt)):
            self.leases.return_to_queue(kept)
        return len(messages)

    def _is_first_damage(self, delivery_id: str) -> bool:
        with self._changed:
            first = delivery_id not in self._corrupt_before
            self._corrupt_before.add(delivery_id)
            return first

    def _keep(self, messages: "list[Message]", *, corrupt: int) -> bool:
        """Add messages to the batch; return False if there is no room for them."""
        body_bytes = sum([sys.getsizeof(m.body) for m in messages])
        with self._changed:
            batch = self._batch
            self._empty_since = None
            self._largest_answer = max(self._largest_answer, body_bytes)
            self.counts.corrupt += corrupt
            if batch.body_bytes + body_bytes > MAX_KEPT_BODY_BYTES:
                return False
            for message in messages:
                if message.delivery_id != message.message_id or message.message_id in batch.delivery_ids:
                    # It was sent again: note this delivery, and the one before it.
                    before = batch.messages.get(message.message_id)
                    deliveries = batch.delivery_ids.setdefault(
                        message.message_id, {before.delivery_id} if before else set()
                    )
                    deliveries.add(message.delivery_id)
                batch.messages[message.message_id] = message
                batch.redelivered += message.receive_count > 1
            batch.body_bytes += body_bytes
            if batch.first_at is None and messages:
                batch.first_at = time.monotonic()
                self._changed.notify_all()
        return True
