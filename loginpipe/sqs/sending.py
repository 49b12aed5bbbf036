"""Sending once more what was on the queue before, dead letters and rejects; and what the queue refuses of that."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from loginpipe.common.errors import QueueError
from loginpipe.sqs.client import Queue
from loginpipe.sqs.entries import FailedEntry, call_with_entries

# SQS's limit of a message, and of all messages of one call together: bodies and attributes.
_BYTES_MOST = 1_048_576

# SQS's limit of a message's attributes.
_ATTRIBUTES_MOST = 10

TOO_LONG = "MessageTooLong"
TOO_MANY_ATTRIBUTES = "TooManyAttributes"
"""Codes of ours, for what has no room for the attributes that say which message it is."""


def send_again(queue: Queue, entries: Mapping[str, Mapping[str, Any]]) -> list[FailedEntry]:
    """Send messages, and return those that were refused: by SQS, or since they have no room for our attributes.

    Args:
        queue: where they go.
        entries: of SendMessageBatch, without ``Id``, by delivery id, at most ten.

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
        for batch in _calls(rest)
        for failure in call_with_entries(
            lambda asked: queue.client.send_message_batch(QueueUrl=queue.url, Entries=asked), batch
        )
    ]
    if failed and len(failed) == len(rest) and failed[0].of_call:
        raise QueueError(
            f"queue {queue.name!r} takes no messages ({failed[0].code}): they stay where they are; mend that and begin "
            "again"
        )
    return [*misfits, *failed]


def by_code(refused: Counter[str]) -> str:
    """Say how many were refused with which code, the most frequent first."""
    return ", ".join(f"{number:,} {code}" for code, number in refused.most_common())


def _misfit(entry: Mapping[str, Any]) -> str | None:
    if len(entry.get("MessageAttributes", {})) > _ATTRIBUTES_MOST:
        return TOO_MANY_ATTRIBUTES
    return TOO_LONG if _bytes(entry) > _BYTES_MOST else None


def _calls(entries: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Mapping[str, Any]]]:
    """Cut entries into calls whose bodies and attributes together SQS takes."""
    batch: dict[str, Mapping[str, Any]] = {}
    size = 0
    for delivery_id, entry in entries.items():
        length = _bytes(entry)
        if batch and size + length > _BYTES_MOST:
            yield batch
            batch, size = {}, 0
        batch[delivery_id] = entry
        size += length
    if batch:
        yield batch


def _bytes(entry: Mapping[str, Any]) -> int:
    """Return what SQS counts of a message: its body, and the name, type and value of each attribute."""
    parts = [entry["MessageBody"]]
    for name, value in entry.get("MessageAttributes", {}).items():
        parts += [name, *(part for part in value.values() if isinstance(part, str | bytes))]
    return sum(len(part) if isinstance(part, bytes) else len(part.encode("utf-8", "surrogatepass")) for part in parts)
