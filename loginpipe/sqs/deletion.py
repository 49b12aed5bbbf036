"""Deleting messages whose outcome is committed, and reading the answer: single entries can fail in a 200."""

import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import count
from threading import Event
from typing import Any

from loginpipe.common.aws import EXPIRED, THROTTLED
from loginpipe.sqs.client import Queue, tens
from loginpipe.sqs.entries import FailedEntry, call_with_entries
from loginpipe.sqs.leases import LeaseKeeper

_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 10.0

# Deletes that wait for SQS leave the run, whose outcome is committed, the time to end well.
_LONGEST_SECONDS = 600

# How long an interruption waits for the calls under way: many times what they take where nothing hangs.
_LAST_CALLS_SECONDS = 2.0

# The credentials were good when the messages were received: they have expired, and new ones are on their way.
_MAY_HEAL = THROTTLED | EXPIRED

NOT_TRIED = "NotTried"
"""Our own code for a message whose turn did not come: the endpoint hung until it was too late."""


@dataclass(frozen=True)
class Deletion:
    """What became of the deletes. A message whose delete failed comes again, is found in the ledger and deleted then.

    Attributes:
        deleted: messages whose delete SQS confirmed.
        failures: messages left, by SQS's error code.
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
) -> Deletion:
    """Delete deliveries, ten a call, and end the lease of each whose delete is confirmed.

    What failed is tried again with the newest receipt handle, until a visibility timeout has passed since the first
    attempt (ten minutes at most) or the message's lease is over: what may heal (a fault of the server, throttling,
    expired credentials, no answer) with growing pauses, other faults of the sender once. Raises nothing: at this point
    the outcome is committed, and a message that stays is harmless.
    """
    pending = list(delivery_ids)
    deleted = 0
    failures: Counter[str] = Counter()
    codes: dict[str, str] = {}
    refused: set[str] = set()
    deadline = clock() + min(leases.visibility_seconds, _LONGEST_SECONDS)
    pool = ThreadPoolExecutor(calls_at_once, thread_name_prefix="delete")
    try:
        for attempt in count():
            this = _Round(queue, leases, deque(tens(pending)), late=lambda: clock() >= deadline)
            confirmed, failed = this.carried_out(pool, calls_at_once)
            deleted += confirmed
            failures.update(codes.get(delivery_id, NOT_TRIED) for ten in this.rest for delivery_id in ten)
            codes = {failure.delivery_id: failure.code for failure in failed}
            late = clock() >= deadline
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


def _back_off_seconds(pauses_before: int) -> float:
    longest = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** min(pauses_before, 16))
    return random.uniform(longest / 2, longest)  # noqa: S311 - spreads load, hides nothing


@dataclass
class _Round:
    """One attempt at each message that is left, ten by ten: what the deleting threads share.

    Attributes:
        rest: what no thread has taken; once it is too late, what none will take.
        late: says whether only what gets through is worth another call.
    """

    queue: Queue
    leases: LeaseKeeper
    rest: deque[list[str]]
    late: Callable[[], bool]
    stop: Event = field(default_factory=Event)

    def carried_out(self, pool: ThreadPoolExecutor, calls_at_once: int) -> tuple[int, list[FailedEntry]]:
        """Return how many deletes are confirmed, and those that failed."""
        deleting: list[Future[tuple[int, list[FailedEntry]]]] = []
        deleted = 0
        failed: list[FailedEntry] = []
        try:
            # Each takes the next ten when it is free: a future for every ten would take as long as half its call.
            deleting += (pool.submit(self._delete_in_tens) for _ in range(calls_at_once))
            for done in deleting:
                confirmed, failures = done.result()
                deleted += confirmed
                failed += failures
        finally:
            # Interrupted, no more calls are made: what is left comes again.
            self.stop.set()
            wait(deleting, _LAST_CALLS_SECONDS)
        return deleted, failed

    def _delete_in_tens(self) -> tuple[int, list[FailedEntry]]:
        deleted = 0
        failed: list[FailedEntry] = []
        while not self.stop.is_set():
            try:
                ten = self.rest.popleft()
            except IndexError:
                break
            confirmed, failures = _delete_ten(self.queue, self.leases, ten)
            deleted += confirmed
            failed += failures
            if failures and not confirmed and self.late():
                self.stop.set()
        return deleted, failed


def _delete_ten(queue: Queue, leases: LeaseKeeper, delivery_ids: Sequence[str]) -> tuple[int, list[FailedEntry]]:
    """Return how many deletes are confirmed, and the others; those no longer held are neither."""
    handles = leases.handles(delivery_ids)
    failed = call_with_entries(
        lambda entries: queue.client.delete_message_batch(QueueUrl=queue.url, Entries=entries),
        {delivery_id: {"ReceiptHandle": handle} for delivery_id, handle in handles.items()},
    )
    failed_ids = {f.delivery_id for f in failed}
    confirmed = handles.keys() - failed_ids
    leases.settle(confirmed)
    return len(confirmed), failed
