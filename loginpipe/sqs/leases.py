"""Keep leases: a received message stays hidden from other consumers only while its visibility timeout is extended.

A background thread extends the lease of every message in flight until its delete is confirmed. Messages still held at
the end return to the queue, so that others need not wait for the timeout. After a crash the leases end by themselves.
"""

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from contextlib import suppress
from dataclasses import dataclass

from loginpipe.common.errors import runbook
from loginpipe.logins.messages import Message
from loginpipe.sqs.client import Queue, batched

LONGEST_LEASE_SECONDS = 12 * 3600
"""SQS hides a message for at most 12 hours after it is received, regardless of extensions."""

MAX_BACK_OFF_SECONDS = 300

_NO_LONGER_OURS = frozenset({
    "AWS.SimpleQueueService.MessageNotInflight", "InvalidParameterValue", "MessageNotInflight",
    "ReceiptHandleIsInvalid",
})  # fmt: skip

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Lease:
    receipt_handle: str
    receive_count: int
    received: float
    ends: float
    being_extended: bool = False
    being_deleted: bool = False
    perhaps_deleted: bool = False
    """An extension was refused during a delete. The response to the delete shows if it is deleted or lost."""


@dataclass(frozen=True)
class Returned:
    """The messages that were still held at the end: made visible again, returned by themselves before, or not yet."""

    returned: int = 0
    ended: int = 0
    failed: int = 0

    @property
    def total(self) -> int:
        """Return the number of messages that were held."""
        return self.returned + self.ended + self.failed


class LeaseKeeper:
    """Keeps the leases of the messages in flight. Thread-safe; times are monotonic seconds.

    ``lost`` leases ended before a confirmed delete. Others may have received those messages too.
    """

    def __init__(
        self, queue: Queue, *, visibility_seconds: int, calls_at_once: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.visibility_seconds = visibility_seconds
        self._queue = queue
        self._clock = clock
        self._leases: dict[str, _Lease] = {}
        self._given_up: set[str] = set()
        self.lost = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(calls_at_once, thread_name_prefix="leases")
        self._thread: threading.Thread | None = None
        self._extending: dict[Future[None], list[tuple[str, _Lease]]] = {}

    @property
    def held(self) -> int:
        """Return the number of messages in flight."""
        return len(self._leases)

    def add(self, messages: Iterable[Message], asked: float) -> None:
        """Keep the leases of messages from now on; after `close`, return the messages to the queue at once.

        If one is already held, the handle with the higher receive count is kept, whichever thread comes first, because
        a delete with an older handle "succeeds" without deleting. The receive call started at ``asked``; the leases
        cannot have started earlier.
        """
        arrived = list(messages)
        now = self._clock()
        with self._lock:
            closed = self._stop.is_set()
            for message in arrived if not closed else ():
                held = self._leases.get(message.delivery_id)
                if held is not None and held.ends <= now:
                    self._give_up([message.delivery_id])
                if held is not None and message.receive_count < held.receive_count:
                    continue
                # Lost before and held again: it stays counted, and is extended from now on.
                self._given_up.discard(message.delivery_id)
                self._leases[message.delivery_id] = _Lease(
                    message.receipt_handle, message.receive_count, asked, asked + self.visibility_seconds
                )
            if self._thread is None and self._leases:
                self._thread = threading.Thread(target=self._keep, name="lease-keeper", daemon=True)
                self._thread.start()
        if closed:
            # The long poll ended after the run, so these will not be processed.
            self.return_to_queue(arrived)

    def handles(self, delivery_ids: Iterable[str]) -> dict[str, str]:
        """Return the newest receipt handle of each of these messages that is still held, for their delete."""
        handles = {}
        with self._lock:
            for delivery_id in delivery_ids:
                lease = self._leases.get(delivery_id)
                if lease is not None:
                    lease.being_deleted = True
                    handles[delivery_id] = lease.receipt_handle
        return handles

    def settle(self, delivery_ids: Iterable[str]) -> None:
        """Stop keeping messages whose delete is confirmed."""
        now = self._clock()
        with self._lock:
            for delivery_id in delivery_ids:
                lease = self._leases.pop(delivery_id, None)
                if lease is not None and lease.ends <= now and not lease.perhaps_deleted:
                    self._give_up([delivery_id])

    def not_deleted(self, delivery_ids: Iterable[str]) -> set[str]:
        """Note that deletes failed, and return the messages whose lease is not lost."""
        now = self._clock()
        ours = set()
        with self._lock:
            for delivery_id in delivery_ids:
                lease = self._leases.get(delivery_id)
                if lease is None:
                    continue
                if lease.perhaps_deleted or lease.ends <= now:
                    self._give_up([delivery_id])
                lease.being_deleted = lease.perhaps_deleted = False
                if delivery_id not in self._given_up:
                    ours.add(delivery_id)
        return ours

    def return_to_queue(self, messages: Sequence[Message]) -> None:
        """Stop keeping messages and make them visible again at once."""
        # In this order, because an extension in between would undo the return.
        self.settle(m.delivery_id for m in messages)
        for chunk in batched(messages):
            self._queue.change_visibility((m.delivery_id, m.receipt_handle, 0) for m in chunk)

    def close(self, *, at_once: bool = False) -> Returned:
        """Stop extending, and return held messages to the queue, each after its back-off or at once.

        Ends with the last lease at the latest, even if calls hang. Messages whose lease is over are left out.
        """
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            self._give_up_ended(self._clock())
            rest = {
                i: (i, lease, 0 if at_once else back_off_seconds(lease.receive_count))
                for i, lease in self._leases.items()
            }
            self._leases.clear()
        held = [lease for _, lease, _ in rest.values()]
        # An extension that completes after the return would undo it. So a message being extended returns after that.
        extending = {
            future: waiting
            for future, chunk in self._extending.items()
            if not future.done() and (waiting := [rest.pop(i) for i, _ in chunk if i in rest])
        }
        counts: Counter[str] = Counter()
        calls = [self._pool.submit(self._return, chunk, counts) for chunk in batched(rest.values())]
        with suppress(TimeoutError):
            extended = [lease for chunk in extending.values() for _, lease, _ in chunk]
            calls += (
                self._pool.submit(self._return, extending[future], counts)
                for future in as_completed(extending, self._left(extended))
            )
        wait(calls, self._left(held))
        # Hanging calls are not waited for.
        self._pool.shutdown(wait=False)
        with self._lock:
            returned, asked = counts["returned"], counts["asked"]
        result = Returned(returned, ended=len(held) - asked, failed=asked - returned)
        if result.failed:
            _log.warning(
                "%d messages could not be returned to the queue: they come back when their lease ends; see %s",
                result.failed,
                runbook("leases-lost"),
            )
        return result

    def _keep(self) -> None:
        while not self._stop.wait(self.visibility_seconds / 12):
            try:
                # Not waited for, so that one hanging call delays no other.
                self._begin_extensions()
            except Exception:  # noqa: BLE001 - the thread must outlive any one failure; it is counted and retried
                _log.warning("leases could not be extended just now; see %s", runbook("leases-lost"), exc_info=False)

    def _begin_extensions(self) -> "list[Future[None]]":
        """Start to extend every lease of which a third has passed."""
        now = self._clock()
        with self._lock:
            self._give_up_ended(now)
            due = [
                (delivery_id, lease)
                for delivery_id, lease in self._leases.items()
                if lease.ends - now <= self.visibility_seconds * 2 / 3
                and not lease.being_extended
                and not lease.perhaps_deleted
                and delivery_id not in self._given_up
            ]
            for _, lease in due:
                lease.being_extended = True
        # The leases that end first go first.
        due.sort(key=lambda pair: pair[1].ends)
        started = {self._pool.submit(self._extend, chunk): chunk for chunk in batched(due)}
        self._extending = {future: chunk for future, chunk in self._extending.items() if not future.done()} | started
        return list(started)

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
            delivery_id: min(self.visibility_seconds, int(LONGEST_LEASE_SECONDS - (now - lease.received)))
            for delivery_id, lease in leases
        }
        askable = [(i, lease.receipt_handle, wanted[i]) for i, lease in leases if wanted[i] > 0]
        failed = {failure.delivery_id: failure for failure in self._queue.change_visibility(askable)}
        with self._lock:
            for delivery_id, lease in leases:
                failure = failed.get(delivery_id)
                if wanted[delivery_id] > 0 and failure is None:
                    lease.ends = now + wanted[delivery_id]
                elif self._leases.get(delivery_id) is not lease:
                    # Settled or received again in the meantime, so this failure does not concern the current lease.
                    continue
                elif failure is not None and failure.code in _NO_LONGER_OURS:
                    if lease.being_deleted:
                        lease.perhaps_deleted = True
                    else:
                        self._give_up([delivery_id])
                elif self._clock() >= lease.ends:
                    self._give_up([delivery_id])

    def _return(self, held: Sequence[tuple[str, _Lease, int]], counts: Counter[str]) -> None:
        """Return up to ten messages, each after its seconds; count those ``asked`` for and ``returned``."""
        now = self._clock()
        ours = [(i, lease.receipt_handle, seconds) for i, lease, seconds in held if lease.ends > now]
        with self._lock:
            counts["asked"] += len(ours)
        failed = self._queue.change_visibility(ours)
        with self._lock:
            counts["asked"] -= sum(failure.code in _NO_LONGER_OURS for failure in failed)
            counts["returned"] += len(ours) - len(failed)

    def _left(self, leases: Iterable[_Lease]) -> float:
        """Return the seconds until the last of these leases ends."""
        return max(0.0, max((lease.ends for lease in leases), default=0.0) - self._clock())

    def _give_up_ended(self, now: float) -> None:
        """Count the leases that have ended as lost. The lock is held."""
        self._give_up(i for i, lease in self._leases.items() if lease.ends <= now and not lease.perhaps_deleted)

    def _give_up(self, delivery_ids: Iterable[str]) -> None:
        """Count leases as lost, each once. The lock is held."""
        lost = set(delivery_ids) - self._given_up
        self._given_up |= lost
        self.lost += len(lost)


def back_off_seconds(receive_count: int) -> int:
    """Return how many seconds a returned message stays hidden: doubled per delivery, with jitter, at most 300."""
    longest = min(MAX_BACK_OFF_SECONDS, 2 ** min(receive_count, 16))
    return random.randint(longest // 2, longest)  # noqa: S311 - spreads load, needs no secrecy
