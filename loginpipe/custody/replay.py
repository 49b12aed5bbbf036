"""Rejected messages sent back to the queue, if today's rules accept them. Needs the private key: it opens bodies."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from loginpipe.custody.opening import open_value, unwrap
from loginpipe.errors import KeyFileError, QueueError
from loginpipe.logins.messages import Message, messages_frame
from loginpipe.logins.splitting import split_batch
from loginpipe.masking.sealing import SealedValue, SealKey, WrappedDataKey
from loginpipe.postgres.connections import Connection, transaction
from loginpipe.postgres.statements import statement
from loginpipe.sqs.client import Queue, tens
from loginpipe.sqs.entries import call_with_entries, fitting
from loginpipe.sqs.identity import replay_attributes

if TYPE_CHECKING:
    from mypy_boto3_sqs.type_defs import SendMessageBatchRequestEntryTypeDef


@dataclass
class ReplayCounts:
    """What became of the rejects.

    Attributes:
        sent: back on the queue, as messages that the ledger knows as their replay.
        still_bad: today's rules reject them too; they stay.
        without_body: recorded while sealing was off; there is nothing to send.
    """

    sent: int = 0
    still_bad: int = 0
    without_body: int = 0


def read_private_key(path: Path) -> rsa.RSAPrivateKey:
    """Read the private half of a seal key.

    Raises:
        KeyFileError: absent, protected by a passphrase, or no RSA key in PEM.
    """
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise KeyFileError(f"the private key file {path} cannot be read ({error.strerror}): mend that") from None
    except (ValueError, TypeError):
        raise KeyFileError(f"{path} holds no private key in PEM that opens without a passphrase") from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise KeyFileError(f"{path} holds no RSA key")
    return key


def replay(
    connection: Connection,
    queue: Queue,
    private_key: rsa.RSAPrivateKey,
    message_ids: Sequence[str],
    *,
    dry_run: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> ReplayCounts:
    """Open rejects, and send back those that today's rules accept.

    May be interrupted at any point and begun again: a reject that is sent twice is one message.

    Args:
        connection: with no transaction open.
        queue: where they go.
        private_key: of the seal key that they were sealed for.
        message_ids: which rejects.
        dry_run: only count.
        progress: told the number of rejects looked at, batch by batch.

    Raises:
        OpeningError: a body does not open, with this key or at all.
        QueueError: the queue takes none.
    """
    counts = ReplayCounts()
    recipient = SealKey(private_key.public_key()).fingerprint
    for ten in tens(message_ids):
        bodies = dict(_opened(connection, private_key, recipient, ten))
        good = {i: body for i, body in bodies.items() if _accepted(body.text)}
        counts.without_body += len(ten) - len(bodies)
        counts.still_bad += len(bodies) - len(good)
        sent = list(good) if dry_run else _sent(queue, good)
        if not dry_run:
            _mark(connection, sent)
        counts.sent += len(sent)
        progress(len(ten))
    return counts


@dataclass(frozen=True)
class _Body:
    text: str
    sent_at: datetime

    def __repr__(self) -> str:
        return "_Body()"


def _opened(
    connection: Connection, private_key: rsa.RSAPrivateKey, recipient: str, message_ids: Sequence[str]
) -> Iterator[tuple[str, _Body]]:
    with transaction(connection) as cursor:
        cursor.execute(statement("sealed_bodies"), (list(message_ids),))
        rows = cursor.fetchall()
    for message_id, sent_at, ciphertext, data_key_id, position, recipients, wrapped_keys in rows:
        # The key that is for us; else the first, whose refusal names the key that would open it.
        ours = recipients.index(recipient) if recipient in recipients else 0
        wrapped = WrappedDataKey(UUID(data_key_id), recipients[ours], bytes(wrapped_keys[ours]))
        value = SealedValue(message_id, "body", UUID(data_key_id), position, bytes(ciphertext))
        plaintext = open_value(value, unwrap(wrapped, private_key), recipients)
        yield message_id, _Body(plaintext.decode("utf-8", "surrogatepass"), sent_at)


def _accepted(body: str) -> bool:
    message = Message("replay", "replay", "", body, 0, 0, 1, body_intact=True)
    return len(split_batch(messages_frame([message])).accepted) == 1


def _sent(queue: Queue, bodies: Mapping[str, _Body]) -> list[str]:
    def entry(message_id: str, body: _Body) -> dict[str, Any]:
        attributes = replay_attributes(UUID(message_id), round(body.sent_at.timestamp() * 1000))
        content: dict[str, Any] = {"MessageBody": body.text, "MessageAttributes": attributes}
        if queue.name.endswith(".fifo"):
            content |= {"MessageGroupId": message_id, "MessageDeduplicationId": message_id}
        return content

    def call(entries: "list[SendMessageBatchRequestEntryTypeDef]") -> object:
        return queue.client.send_message_batch(QueueUrl=queue.url, Entries=entries)

    batches = fitting([(i, entry(i, body)) for i, body in bodies.items()])
    failed = [failure for batch in batches for failure in call_with_entries(call, batch)]
    if failed and len(failed) == len(bodies) and failed[0].of_call:
        raise QueueError(f"queue {queue.name!r} takes no messages ({failed[0].code}): the rejects stay")
    refused = {f.delivery_id for f in failed}
    return [i for i in bodies if i not in refused]


def _mark(connection: Connection, message_ids: Sequence[str]) -> None:
    with transaction(connection) as cursor:
        cursor.execute(
            "UPDATE loginpipe.rejected_messages SET replayed_at = now() WHERE message_id = ANY (%s::uuid[])",
            (list(message_ids),),
        )
