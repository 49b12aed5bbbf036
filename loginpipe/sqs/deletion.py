"""Deleting messages whose outcome is committed, and reading the answer: single entries can fail in a 200."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from loginpipe.sqs.client import Queue, tens
from loginpipe.sqs.entries import FailedEntry, call_with_entries
from loginpipe.sqs.leases import LeaseKeeper

_ROUNDS: Final = 5
_SENDER_FAULT_ROUNDS: Final = 2
_FIRST_PAUSE_SECONDS: Final = 0.2


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
    pause: Callable[[float], Any] = time.sleep,
) -> Deletion:
    """Delete deliveries, ten a call, and end the lease of each whose delete is confirmed.

    Failed entries are tried again with the newest receipt handle: faults of the server with growing pauses, faults of
    the sender once. Raises nothing: at this point the outcome is committed, and a message that stays is harmless.
    """
    pending = list(delivery_ids)
    given_up: list[FailedEntry] = []
    deleted = 0
    with ThreadPoolExecutor(calls_at_once, thread_name_prefix="delete") as pool:
        for attempt in range(_ROUNDS):
            if attempt:
                pause(_FIRST_PAUSE_SECONDS * 2**attempt)
            failed: list[FailedEntry] = []
            rest = deque(tens(pending))
            try:
                # Each takes the next ten when it is free: a future for every ten would take as long as half its call.
                deleting = [pool.submit(_delete_in_tens, queue, leases, rest) for _ in range(calls_at_once)]
                for done in deleting:
                    confirmed, failures = done.result()
                    deleted += confirmed
                    failed += failures
            finally:
                # Interrupted, no more calls are made: what is left comes again.
                rest.clear()
            final = [
                f for f in failed if (f.sender_fault and attempt + 1 >= _SENDER_FAULT_ROUNDS) or attempt + 1 == _ROUNDS
            ]
            given_up += final
            pending = [f.delivery_id for f in failed if f not in final]
            if not pending:
                break
    return Deletion(deleted, Counter(f.code for f in given_up))


def _delete_in_tens(queue: Queue, leases: LeaseKeeper, rest: deque[list[str]]) -> tuple[int, list[FailedEntry]]:
    """Delete what is left until nothing is; return how many deletes are confirmed, and those that failed."""
    deleted = 0
    failed: list[FailedEntry] = []
    while True:
        try:
            ten = rest.popleft()
        except IndexError:
            return deleted, failed
        confirmed, failures = _delete_ten(queue, leases, ten)
        deleted += confirmed
        failed += failures


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
