"""Send messages, at most ten and 1 MiB per call. Refused messages are retried or reported."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, TypeAlias
from uuid import uuid4

from loginpipe.common.errors import QueueError
from loginpipe.sqs.client import MAX_BATCH, FailedEntry, Queue, call_with_entries, queue_errors

_Entries: TypeAlias = Mapping[str, Mapping[str, Any]]

# SQS's limit for a message, and for all messages of one call together: bodies and attributes.
_MAX_BYTES = 1_048_576

# SQS's limit of attributes per message.
_MAX_ATTRIBUTES = 10

TOO_LONG = "MessageTooLong"
TOO_MANY_ATTRIBUTES = "TooManyAttributes"
"""Our own codes for a message without room for the attributes that identify it."""

# For new messages: concurrent calls, and seconds before each further attempt.
_SENDERS = 4
_PAUSES = (0.2, 0.4, 0.8)


def send_bodies(queue: Queue, bodies: Iterable[str], progress: Callable[[int], None] | None = None) -> int:
    """Send new messages with several concurrent calls, and return how many were sent. They do not keep their order.

    ``bodies`` are read as they are sent, never all at once. ``progress`` is called after each batch with the number of
    messages sent.

    Raises:
        QueueError: the endpoint is unreachable or refuses, or single messages were refused four times in a row; names
            their number and the codes. Others may have been sent.
    """
    fifo = queue.url.endswith(".fifo")
    batches = _batches((str(number), _new_entry(body, fifo=fifo)) for number, body in enumerate(bodies))
    sent = 0
    refused: Counter[str] = Counter()
    running: set[Future[tuple[int, Counter[str]]]] = set()
    with ThreadPoolExecutor(_SENDERS) as senders:
        while True:
            # No call is started after a refusal. Those in flight are still counted.
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
    """Send dead letters or rejects again; return those refused by SQS, and those without room for attributes.

    ``entries`` maps delivery ids to entries of SendMessageBatch without ``Id``.

    Raises:
        QueueError: every call was refused as a whole.
    """
    # Not sent, because SQS would refuse the whole call, with the other messages in it.
    misfits = {i: code for i, entry in entries.items() if (code := _misfit(entry))}
    rest = {i: entry for i, entry in entries.items() if i not in misfits}
    failed = [
        failure
        for batch in _batches(rest.items())
        for failure in call_with_entries(queue.client.send_message_batch, queue.url, batch)
    ]
    if failed and len(failed) == len(rest) and failed[0].of_call:
        raise QueueError(
            f"queue {queue.name!r} takes no messages ({failed[0].code}): they stay where they are; fix that and start "
            "again"
        )
    return [*(FailedEntry(i, code, sender_fault=True) for i, code in misfits.items()), *failed]


def by_code(refused: Counter[str]) -> str:
    """Return the number of refused messages by code as text, the most frequent first."""
    return ", ".join(f"{number:,} {code}" for code, number in refused.most_common())


def _new_entry(body: str, *, fifo: bool) -> dict[str, Any]:
    ordered = {"MessageGroupId": "logins", "MessageDeduplicationId": uuid4().hex} if fifo else {}
    return {"MessageBody": body, **ordered}


def _send_or_retry(queue: Queue, batch: _Entries) -> tuple[int, Counter[str]]:
    """Return how many messages of a batch were sent, and the codes of those refused each time."""

    def send(**request: Any) -> Any:
        # A call that fails as a whole ends the sending, with an error that names the fix.
        with queue_errors(queue.name):
            return queue.client.send_message_batch(**request)

    codes: dict[str, str] = {}
    for pause in (0, *_PAUSES):
        time.sleep(pause)
        waiting = {i: batch[i] for i in codes or batch}
        codes = {failure.delivery_id: failure.code for failure in call_with_entries(send, queue.url, waiting)}
        if not codes:
            break
    return len(batch) - len(codes), Counter(codes.values())


def _misfit(entry: Mapping[str, Any]) -> str | None:
    if len(entry.get("MessageAttributes", {})) > _MAX_ATTRIBUTES:
        return TOO_MANY_ATTRIBUTES
    return TOO_LONG if _bytes(entry) > _MAX_BYTES else None


def _batches(entries: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[_Entries]:
    """Cut entries into calls: at most ten entries, whose bodies and attributes together are within the limit."""
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
    """Return the size that SQS counts: the body, and the name, type and value of each attribute."""
    parts = [entry["MessageBody"]]
    for name, value in entry.get("MessageAttributes", {}).items():
        parts += [name, *(part for part in value.values() if isinstance(part, str | bytes))]
    return sum(len(part) if isinstance(part, bytes) else len(part.encode("utf-8", "surrogatepass")) for part in parts)
