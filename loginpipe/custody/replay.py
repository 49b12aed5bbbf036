"""Send rejected messages back to the queue if today's rules accept them. The access log records the opened bodies."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from loginpipe.custody.access import Bulk, release_under
from loginpipe.custody.opening import DataKeys, Opener, open_released
from loginpipe.custody.token_checks import TokenChecks
from loginpipe.logins.messages import Message
from loginpipe.logins.parsing import Envelope
from loginpipe.logins.splitting import split_batch
from loginpipe.postgres.connections import Connection, transaction
from loginpipe.postgres.ledger import Reject
from loginpipe.sqs.client import FailedEntry, Queue, batched
from loginpipe.sqs.deliveries import replay_attributes
from loginpipe.sqs.sending import send_again

# Per release: a message can have a mebibyte, and a whole release is in memory at once.
_BODIES_AT_ONCE = 32


@dataclass
class ReplayCounts:
    """The number of rejects by result.

    Attributes:
        still_bad: rejected by today's rules too, or too old to send again. They stay.
        without_body: recorded while sealing was off, so there is nothing to send.
        refused: refused by the queue, by error code. They stay.
    """

    sent: int = 0
    still_bad: int = 0
    without_body: int = 0
    refused: Counter[str] = field(default_factory=Counter)


def replay(
    connection: Connection,
    queue: Queue,
    opener: Opener,
    rejects: Sequence[Reject],
    bulk: Bulk,
    *,
    envelope: Envelope = "none",
    resent_days: int | None = None,
    dry_run: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> ReplayCounts:
    """Open rejects, and send back those that today's rules accept.

    You can interrupt and restart it at any point: a reject that is sent twice counts as one message. Those first sent
    ``resent_days`` ago or earlier stay, as a run would not accept them. ``dry_run`` only counts. ``progress`` is called
    with the number of rejects of each step.

    Raises:
        AccessRefusedError: a request or release was refused.
        OpeningError: a body does not open.
        QueueError: the queue refuses all messages.
    """
    counts, data_keys = ReplayCounts(), DataKeys(opener)
    age = timedelta.max if resent_days is None else timedelta(days=resent_days)
    young = [reject for reject in rejects if datetime.now(UTC) - reject.sent_at < age]
    counts.still_bad = len(rejects) - len(young)
    if counts.still_bad:
        progress(counts.still_bad)
    for start in range(0, len(young), _BODIES_AT_ONCE):
        batch = young[start : start + _BODIES_AT_ONCE]
        bodies = _bodies(connection, data_keys, batch, bulk)
        for chunk in batched(batch):
            opened = [(reject, bodies[reject.message_id]) for reject in chunk if reject.message_id in bodies]
            good = [(reject, body) for reject, body in opened if _accepted(body, envelope)]
            counts.without_body += len(chunk) - len(opened)
            counts.still_bad += len(opened) - len(good)
            refused = [] if dry_run else _send(queue, good)
            sent = {reject.message_id for reject, _ in good} - {failure.delivery_id for failure in refused}
            if not dry_run:
                _mark(connection, sent)
            counts.sent += len(sent)
            counts.refused += Counter(failure.code for failure in refused)
            progress(len(chunk))
    return counts


def _bodies(connection: Connection, data_keys: DataKeys, rejects: Sequence[Reject], bulk: Bulk) -> dict[str, str]:
    """Return the bodies of rejects by message id, except of rejects recorded without one."""
    released = release_under(connection, bulk, [reject.message_id for reject in rejects])
    opening = open_released(released, data_keys, TokenChecks(None))
    if opening.refused:
        raise opening.refused[0]
    return {i: opened.plaintext.decode("utf-8", "surrogatepass") for i, opened in opening.opened.items()}


def _accepted(body: str, envelope: Envelope) -> bool:
    message = Message("replay", "replay", "", body, 0, 0, 1, body_intact=True)
    return len(split_batch([message], envelope=envelope).accepted) == 1


def _send(queue: Queue, bodies: Sequence[tuple[Reject, str]]) -> list[FailedEntry]:
    def entry(reject: Reject, body: str) -> dict[str, Any]:
        attributes = replay_attributes(UUID(reject.message_id), round(reject.sent_at.timestamp() * 1000))
        content: dict[str, Any] = {"MessageBody": body, "MessageAttributes": attributes}
        if queue.name.endswith(".fifo"):
            content |= {"MessageGroupId": reject.message_id, "MessageDeduplicationId": reject.message_id}
        return content

    return send_again(queue, {reject.message_id: entry(reject, body) for reject, body in bodies})


def _mark(connection: Connection, message_ids: Collection[str]) -> None:
    query = "UPDATE loginpipe.rejected_messages SET replayed_at = now() WHERE message_id = ANY (%s::uuid[])"
    with transaction(connection) as cursor:
        cursor.execute(query, (list(message_ids),))
