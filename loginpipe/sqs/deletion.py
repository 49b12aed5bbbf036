"""Delete messages whose outcome is committed. Single entries can fail in a response with status 200."""

import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from threading import Event
from typing import Any

from loginpipe.common.aws import EXPIRED, THROTTLED
from loginpipe.sqs.client import FailedEntry, Queue, batched
from loginpipe.sqs.leases import LeaseKeeper

_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 10.0

# The longest that one batch is retried. The run, whose outcome is committed, must still have time to succeed.
_LONGEST_SECONDS = 600

# How long an interruption waits for the calls in flight: many times their usual duration.
_LAST_CALLS_SECONDS = 2.0

# How soon a wait for deletes notices that it may end.
_CHECK_SECONDS = 0.25

# The credentials were valid when the messages were received. If they have expired, new ones are on their way.
_MAY_HEAL = THROTTLED | EXPIRED

NOT_TRIED = "NotTried"
"""Our own code for a message that was not tried because the endpoint hung until the deadline."""


@dataclass(frozen=True)
class Deletion:
    """The results of deletes. If a delete failed, the message comes again, is found in the ledger and is deleted then.

    Attributes:
        deleted: messages whose delete SQS confirmed.
        failures: SQS's error code → messages not deleted.
    """

    deleted: int = 0
    failures: Counter[str] = field(default_factory=Counter)


def delete_messages(
    queue: Queue,
    leases: LeaseKeeper,
    delivery_ids: Iterable[str],
    *,
    calls_at_once: int,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], Any] = time.sleep,
    stop: Event | None = None,
) -> Deletion:
    """Delete deliveries, ten per call, and end the lease of each confirmed one.

    A failed delete is retried with the newest receipt handle until its lease is over, or until a visibility timeout (at
    most ten minutes) has passed since the first attempt. Errors of the server, throttling, expired credentials and
    missing responses are retried with growing pauses, other errors of the sender once. Raises nothing, because the
    outcome is committed and a message that stays is harmless. Once ``stop`` is set, no call is made.
    """
    stopped = stop.is_set if stop else lambda: False
    pending = list(delivery_ids)
    deleted = 0
    failures: Counter[str] = Counter()
    codes: dict[str, str] = {}
    refused: set[str] = set()
    deadline = clock() + min(leases.visibility_seconds, _LONGEST_SECONDS)
    pool = ThreadPoolExecutor(calls_at_once, thread_name_prefix="delete")
    try:
        for attempt in count():
            this = _Round(queue, leases, deque(batched(pending)), lambda: clock() >= deadline, stopped)
            confirmed, failed = this.carried_out(pool, calls_at_once)
            deleted += confirmed
            failures.update(codes.get(delivery_id, NOT_TRIED) for chunk in this.rest for delivery_id in chunk)
            codes = {failure.delivery_id: failure.code for failure in failed}
            late = clock() >= deadline or stopped()
            ours = leases.not_deleted(codes)
            pending = []
            for failure in failed:
                heals = not failure.sender_fault or failure.code in _MAY_HEAL
                if late or failure.delivery_id not in ours or (not heals and failure.delivery_id in refused):
                    failures[failure.code] += 1
                    continue
                pending.append(failure.delivery_id)
                if not heals:
                    refused.add(failure.delivery_id)
            if not pending:
                break
            pause(min(_back_off_seconds(attempt), max(0.0, deadline - clock())))
    finally:
        pool.shutdown(wait=False)
    return Deletion(deleted, failures)


class Deleter:
    """Deletes batches in the background, in the given order, while the next batch is processed."""

    def __init__(self, queue: Queue, leases: LeaseKeeper) -> None:
        self._queue = queue
        self._leases = leases
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="deleter")
        self._pending: deque[tuple[str, Future[Deletion]]] = deque()
        self._stop = Event()

    def submit(self, batch_id: str, delivery_ids: Iterable[str], *, calls_at_once: int) -> None:
        """Delete the messages of a batch whose outcome is committed."""
        delete = partial(delete_messages, self._queue, self._leases, list(delivery_ids))
        pause, stop = self._stop.wait, self._stop
        self._pending.append(
            (batch_id, self._thread.submit(delete, calls_at_once=calls_at_once, pause=pause, stop=stop))
        )

    def finished(
        self, *, max_pending: int | None = None, give_up: Callable[[], bool] = lambda: False
    ) -> list[tuple[str, Deletion]]:
        """Return the batches whose deletes have ended since the last call, with the results.

        With ``max_pending``, wait until at most this many batches are pending, or until ``give_up`` returns True.
        """
        done = []
        while self._pending:
            batch_id, future = self._pending[0]
            if not future.done():
                if max_pending is None or len(self._pending) <= max_pending or give_up():
                    break
                wait([future], _CHECK_SECONDS)
                continue
            done.append((batch_id, future.result()))
            self._pending.popleft()
        return done

    def close(self, *, wait_seconds: float) -> list[tuple[str, Deletion]]:
        """Wait for the deletes, then make no more calls; return as `finished` does.

        A hanging call gets two more seconds. Then its batch and those after it are not returned.
        """
        deleting = [future for _, future in self._pending]
        wait(deleting, wait_seconds)
        self._stop.set()
        wait(deleting, _LAST_CALLS_SECONDS)
        self._thread.shutdown(wait=False)
        return self.finished()


def _back_off_seconds(pauses_before: int) -> float:
    longest = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** min(pauses_before, 16))
    return random.uniform(longest / 2, longest)  # noqa: S311 - spreads load, needs no secrecy


@dataclass
class _Round:
    """One attempt at each remaining message, chunk by chunk. The deleting threads share it.

    If it is ``late``, a chunk of which no delete is confirmed ends the round. If ``stopped``, no call is made.
    """

    queue: Queue
    leases: LeaseKeeper
    rest: deque[list[str]]
    late: Callable[[], bool]
    stopped: Callable[[], bool]
    stop: Event = field(default_factory=Event)

    def carried_out(self, pool: ThreadPoolExecutor, calls_at_once: int) -> tuple[int, list[FailedEntry]]:
        """Return the number of confirmed deletes, and the failed ones."""
        if len(self.rest) == 1:
            # The usual case of a small batch: threads would cost more than the call.
            return self._delete_chunks()
        deleting: list[Future[tuple[int, list[FailedEntry]]]] = []
        deleted = 0
        failed: list[FailedEntry] = []
        try:
            # Each thread takes the next chunk when it is free: a future per chunk would take half as long as its call.
            deleting += (pool.submit(self._delete_chunks) for _ in range(calls_at_once))
            # With a timeout, because a signal just before a wait without one would be noticed only at its end.
            while wait(deleting, _CHECK_SECONDS).not_done:
                pass
            for done in deleting:
                confirmed, failures = done.result()
                deleted += confirmed
                failed += failures
        finally:
            # After an interruption no more calls are made. The remaining messages come again.
            self.stop.set()
            wait(deleting, _LAST_CALLS_SECONDS)
        return deleted, failed

    def _delete_chunks(self) -> tuple[int, list[FailedEntry]]:
        deleted = 0
        failed: list[FailedEntry] = []
        while not (self.stop.is_set() or self.stopped()):
            try:
                chunk = self.rest.popleft()
            except IndexError:
                break
            confirmed, failures = delete_ten(self.queue, self.leases, chunk)
            deleted += confirmed
            failed += failures
            if failures and not confirmed and self.late():
                self.stop.set()
        return deleted, failed


def delete_ten(queue: Queue, leases: LeaseKeeper, delivery_ids: Iterable[str]) -> tuple[int, list[FailedEntry]]:
    """Return the number of confirmed deletes, and the failed ones. Messages no longer held are in neither."""
    handles = leases.handles(delivery_ids)
    failed = queue.delete(handles)
    confirmed = handles.keys() - {f.delivery_id for f in failed}
    leases.settle(confirmed)
    return len(confirmed), failed
