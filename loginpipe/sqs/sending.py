"""Sending messages: ten and at most 1 MiB a call, with what the queue refuses of them tried again or reported."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, TypeAlias
from uuid import uuid4

from loginpipe.common.errors import QueueError
from loginpipe.sqs.client import MAX_BATCH, Queue, queue_errors
from loginpipe.sqs.entries import FailedEntry, call_with_entries

_Entries: TypeAlias = Mapping[str, Mapping[str, Any]]

# SQS's limit of a message, and of all messages of one call together: bodies and attributes.
_MAX_BYTES = 1_048_576

# SQS's limit of a message's attributes.
_MAX_ATTRIBUTES = 10

TOO_LONG = "MessageTooLong"
TOO_MANY_ATTRIBUTES = "TooManyAttributes"
"""Codes of ours, for what has no room for the attributes that say which message it is."""

# Calls at once, and seconds before each further attempt, where bodies are sent for the first time.
_SENDERS = 4
_PAUSES = (0.2, 0.4, 0.8)


def send_bodies(queue: Queue, bodies: Iterable[str], progress: Callable[[int], None] | None = None) -> int:
    """Send new messages, several calls at once; they do not keep their order.

    Args:
        queue: where they go.
        bodies: read as they are sent, never all at once.
        progress: called after each call with the number of messages that it added.

    Returns:
        How many were sent.

    Raises:
        QueueError: the endpoint is unreachable or refuses, or single messages were refused four times in a row;
            says how many were and why. Others may have been sent.
    """
    fifo = queue.url.endswith(".fifo")
    batches = _batches((str(number), _new_entry(body, fifo=fifo)) for number, body in enumerate(bodies))
    sent = 0
    refused: Counter[str] = Counter()
    running: set[Future[tuple[int, Counter[str]]]] = set()
    with ThreadPoolExecutor(_SENDERS) as senders:
        while True:
            # None is started after a refusal; those in flight are still counted.
            while len(running) < 2 * _SENDERS and not refused and (batch := next(batches, None)):
                running.add(senders.submit(_send_or_retry, queue, batch))
            if not running:
                break
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                added, refusals = future.result()
                sent += added
                refused += refusals
                if progress is not None:
                    progress(added)
    if refused:
        codes = ", ".join(sorted(refused))
        raise QueueError(
            f"{refused.total()} messages were refused ({codes}) and {sent} sent: fix that and send the rest"
        )
    return sent


def send_again(queue: Queue, entries: _Entries) -> list[FailedEntry]:
    """Send dead letters or rejects once more; return those refused: by SQS, or since they have no room for attributes.

    Args:
        queue: where they go.
        entries: of SendMessageBatch, without ``Id``, by delivery id.

    Raises:
        QueueError: every call was refused as a whole.
    """
    # Not sent: SQS would refuse the call as a whole, and those beside them with it.
    misfits = [
        FailedEntry(delivery_id, code, sender_fault=True)
        for delivery_id, entry in entries.items()
        if (code := _misfit(entry)) is not None
    ]
    rest = {i: entry for i, entry in entries.items() if i not in {misfit.delivery_id for misfit in misfits}}
    failed = [
        failure
        for batch in _batches(rest.items())
        for failure in call_with_entries(lambda asked: _call(queue, asked), batch)
    ]
    if failed and len(failed) == len(rest) and failed[0].of_call:
        raise QueueError(
            f"queue {queue.name!r} takes no messages ({failed[0].code}): they stay where they are; fix that and start "
            "again"
        )
    return [*misfits, *failed]


def by_code(refused: Counter[str]) -> str:
    """Say how many were refused with which code, the most frequent first."""
    return ", ".join(f"{number:,} {code}" for code, number in refused.most_common())


def _new_entry(body: str, *, fifo: bool) -> dict[str, Any]:
    ordered = {"MessageGroupId": "logins", "MessageDeduplicationId": uuid4().hex} if fifo else {}
    return {"MessageBody": body, **ordered}


def _send_or_retry(queue: Queue, batch: _Entries) -> tuple[int, Counter[str]]:
    """Return how many of a batch were sent, and the codes of those that were refused to the end."""

    def call(asked: list[Any]) -> Any:
        # A call that fails as a whole ends the sending, with an error that says what to do.
        with queue_errors(queue.name):
            return _call(queue, asked)

    failed: dict[str, FailedEntry] = {}
    for pause in (0, *_PAUSES):
        time.sleep(pause)
        waiting = {i: batch[i] for i in failed or batch}
        failed = {failure.delivery_id: failure for failure in call_with_entries(call, waiting)}
        if not failed:
            break
    return len(batch) - len(failed), Counter(failure.code for failure in failed.values())


def _call(queue: Queue, asked: list[Any]) -> Any:
    return queue.client.send_message_batch(QueueUrl=queue.url, Entries=asked)


def _misfit(entry: Mapping[str, Any]) -> str | None:
    if len(entry.get("MessageAttributes", {})) > _MAX_ATTRIBUTES:
        return TOO_MANY_ATTRIBUTES
    return TOO_LONG if _bytes(entry) > _MAX_BYTES else None


def _batches(entries: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[_Entries]:
    """Cut entries into what one call takes: ten, whose bodies and attributes together are not too long."""
    batch: dict[str, Mapping[str, Any]] = {}
    size = 0
    for entry_id, entry in entries:
        length = _bytes(entry)
        if batch and (len(batch) == MAX_BATCH or size + length > _MAX_BYTES):
            yield batch
            batch, size = {}, 0
        batch[entry_id] = entry
        size += length
    if batch:
        yield batch


def _bytes(entry: Mapping[str, Any]) -> int:
    """Return what SQS counts of a message: its body, and the name, type and value of each attribute."""
    parts = [entry["MessageBody"]]
    for name, value in entry.get("MessageAttributes", {}).items():
        parts += [name, *(part for part in value.values() if isinstance(part, str | bytes))]
    return sum(len(part) if isinstance(part, bytes) else len(part.encode("utf-8", "surrogatepass")) for part in parts)
