"""Leases: a received message is hidden from others for the visibility timeout, and stays ours only while we extend it.

A background thread extends the lease of every message in flight until its delete is confirmed. What is still held at
the end goes back to the queue, so that others need not wait for the timeout. After a crash there is nothing to clean:
the leases end by themselves.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from loginpipe.logins.messages import Message
from loginpipe.runbook import runbook
from loginpipe.sqs.client import Queue, tens
from loginpipe.sqs.entries import FailedEntry, call_with_entries

if TYPE_CHECKING:
    from mypy_boto3_sqs.type_defs import ChangeMessageVisibilityBatchRequestEntryTypeDef

LONGEST_LEASE_SECONDS: Final = 12 * 3600
"""SQS hides a message for 12 hours at most, counted from its receiving and whatever the extensions."""

BACK_OFF_MOST_SECONDS: Final = 300

_NO_LONGER_OURS: Final = frozenset(
    {
        "MessageNotInflight",
        "AWS.SimpleQueueService.MessageNotInflight",
        "ReceiptHandleIsInvalid",
        "InvalidParameterValue",
    }
)

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Lease:
    receipt_handle: str
    receive_count: int
    received: float
    ends: float
    being_extended: bool = False


class LeaseKeeper:
    """Keeps the leases of the messages in flight. Safe to use from several threads; times are monotonic seconds."""

    def __init__(
        self, queue: Queue, *, visibility_seconds: int, calls_at_once: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._queue = queue
        self._visibility = visibility_seconds
        self._clock = clock
        self._leases: dict[str, _Lease] = {}
        self._given_up: set[str] = set()
        self._lost = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(calls_at_once, thread_name_prefix="leases")
        self._thread: threading.Thread | None = None

    @property
    def lost(self) -> int:
        """How many leases ended before their message was settled: others may have received those messages too."""
        return self._lost

    @property
    def held(self) -> int:
        """How many messages are in flight."""
        return len(self._leases)

    def add(self, messages: Iterable[Message], asked: float) -> None:
        """Keep messages from now on; after `close`, hand them back at once.

        Args:
            messages: as received. One that is held already gets the newer receipt handle: an older one "succeeds"
                without deleting.
            asked: when the receive call began; the lease cannot have begun earlier.
        """
        arrived = list(messages)
        with self._lock:
            closed = self._stop.is_set()
            for message in arrived if not closed else ():
                # Lost before, and ours again: counted, and extended from now on.
                self._given_up.discard(message.delivery_id)
                self._leases[message.delivery_id] = _Lease(
                    message.receipt_handle, message.receive_count, asked, asked + self._visibility
                )
            if self._thread is None and self._leases:
                self._thread = threading.Thread(target=self._keep, name="lease-keeper", daemon=True)
                self._thread.start()
        if closed:
            # A long poll that outlived the run: nobody is left to work on these.
            self.hand_back(arrived)

    def handles(self, delivery_ids: Iterable[str]) -> dict[str, str]:
        """Return the newest receipt handle of each of these messages that is still held."""
        with self._lock:
            return {i: lease.receipt_handle for i in delivery_ids if (lease := self._leases.get(i)) is not None}

    def settle(self, delivery_ids: Iterable[str]) -> None:
        """Stop keeping messages: their delete is confirmed."""
        now = self._clock()
        with self._lock:
            for delivery_id in delivery_ids:
                lease = self._leases.pop(delivery_id, None)
                if lease is not None and lease.ends <= now:
                    self._give_up([delivery_id])

    def hand_back(self, messages: Sequence[Message]) -> None:
        """Make messages visible again at once and stop keeping them."""
        for ten in tens(messages):
            self._change([(m.delivery_id, m.receipt_handle, 0) for m in ten])
        self.settle(m.delivery_id for m in messages)

    def close(self, *, at_once: bool = False) -> int:
        """Stop extending and hand back what is still held, each with a back-off by its receive count, or at once.

        Returns:
            How many messages went back. One that could not be handed back is visible again when its lease ends.
        """
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            rest = [
                (delivery_id, lease.receipt_handle, 0 if at_once else back_off_seconds(lease.receive_count))
                for delivery_id, lease in self._leases.items()
            ]
            self._leases.clear()
        failed = sum(len(failures) for failures in self._pool.map(self._change, tens(rest)))
        self._pool.shutdown()
        if failed:
            _log.warning(
                "%d messages could not be handed back: they return when their lease ends; see %s",
                failed,
                runbook("leases-lost"),
            )
        return len(rest) - failed

    def extend_due(self) -> None:
        """Extend every lease of which a third has passed, and wait for the answers."""
        wait(self._begin_extensions())

    def _keep(self) -> None:
        while not self._stop.wait(self._visibility / 12):
            try:
                # Not waited for: one call that hangs holds up no other.
                self._begin_extensions()
            except Exception:  # noqa: BLE001 - the thread must outlive any one failure; it is counted and retried
                _log.warning("leases could not be extended just now; see %s", runbook("leases-lost"), exc_info=False)

    def _begin_extensions(self) -> "list[Future[None]]":
        now = self._clock()
        with self._lock:
            self._give_up(delivery_id for delivery_id, lease in self._leases.items() if lease.ends <= now)
            due = [
                (delivery_id, lease)
                for delivery_id, lease in self._leases.items()
                if lease.ends - now <= self._visibility * 2 / 3
                and not lease.being_extended
                and delivery_id not in self._given_up
            ]
            for _, lease in due:
                lease.being_extended = True
        # Those that end first go first.
        due.sort(key=lambda pair: pair[1].ends)
        return [self._pool.submit(self._extend, ten) for ten in tens(due)]

    def _extend(self, leases: Sequence[tuple[str, _Lease]]) -> None:
        try:
            if not self._stop.is_set():
                self._extend_now(leases)
        finally:
            with self._lock:
                for _, lease in leases:
                    lease.being_extended = False

    def _extend_now(self, leases: Sequence[tuple[str, _Lease]]) -> None:
        now = self._clock()
        wanted = {
            delivery_id: min(self._visibility, int(LONGEST_LEASE_SECONDS - (now - lease.received)))
            for delivery_id, lease in leases
        }
        askable = [(i, lease.receipt_handle, wanted[i]) for i, lease in leases if wanted[i] > 0]
        failed = {failure.delivery_id: failure for failure in self._change(askable)}
        with self._lock:
            for delivery_id, lease in leases:
                failure = failed.get(delivery_id)
                if wanted[delivery_id] > 0 and failure is None:
                    lease.ends = now + wanted[delivery_id]
                elif self._leases.get(delivery_id) is lease and (
                    self._clock() >= lease.ends or (failure is not None and failure.code in _NO_LONGER_OURS)
                ):
                    self._give_up([delivery_id])

    def _give_up(self, delivery_ids: Iterable[str]) -> None:
        """Count leases as lost, each once. The lock is held."""
        lost = set(delivery_ids) - self._given_up
        self._given_up |= lost
        self._lost += len(lost)

    def _change(self, entries: Sequence[tuple[str, str, int]]) -> list[FailedEntry]:
        """Set the visibility timeout of up to ten deliveries: id, receipt handle, seconds."""

        def call(asked: "list[ChangeMessageVisibilityBatchRequestEntryTypeDef]") -> object:
            return self._queue.client.change_message_visibility_batch(QueueUrl=self._queue.url, Entries=asked)

        return call_with_entries(
            call,
            {
                delivery_id: {"ReceiptHandle": handle, "VisibilityTimeout": seconds}
                for delivery_id, handle, seconds in entries
            },
        )


def back_off_seconds(receive_count: int) -> int:
    """Return how long a message handed back stays hidden: doubling with each delivery, jittered, 5 minutes at most."""
    longest = min(BACK_OFF_MOST_SECONDS, 2 ** min(receive_count, 16))
    return random.randint(longest // 2, longest)  # noqa: S311 - spreads load, hides nothing
