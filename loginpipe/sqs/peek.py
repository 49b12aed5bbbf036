"""Messages received to be looked at: they go back to the queue at once, whatever happens meanwhile."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from loginpipe.logins.messages import Message
from loginpipe.sqs.client import MAX_BATCH, Queue
from loginpipe.sqs.leases import LeaseKeeper
from loginpipe.sqs.receiver import LONG_POLL_SECONDS, receive_once

# Lease extensions and returns at once: each takes ten messages.
_CALLS_AT_ONCE = 8


@contextmanager
def peeked(
    queue: Queue, number: int, *, visibility_seconds: int, resent_days: int | None = None
) -> Iterator[list[Message]]:
    """Receive up to so many messages for the length of a ``with`` block, and make them visible again at its end.

    Each counts as received once more. Fewer come where the queue has no more to give.

    Raises:
        QueueError: the queue cannot be received from; what was received returns all the same.
    """
    leases = LeaseKeeper(queue, visibility_seconds=visibility_seconds, calls_at_once=_CALLS_AT_ONCE)
    messages: dict[str, Message] = {}
    try:
        while len(messages) < number:
            asked = time.monotonic()
            received = receive_once(
                queue,
                min(MAX_BATCH, number - len(messages)),
                wait_seconds=LONG_POLL_SECONDS,
                visibility_seconds=visibility_seconds,
                resent_days=resent_days,
            )
            leases.add(received, asked)
            messages |= {message.message_id: message for message in received}
            if not received:
                break
        yield list(messages.values())
    finally:
        leases.close(at_once=True)
