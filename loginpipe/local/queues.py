"""The login queue of a local stack: making it, and putting messages on it. Receiving is `loginpipe.sqs`'s."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING
from uuid import uuid4

from loginpipe.common.errors import QueueError
from loginpipe.sqs.client import BATCH_MOST, queue_errors

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.literals import QueueAttributeNameType
    from mypy_boto3_sqs.type_defs import SendMessageBatchRequestEntryTypeDef

BATCH_BYTES_MOST = 1_048_576
"""SQS's limit of all bodies in one call together."""

_SENDERS = 4
_ATTEMPTS = 4
_FIRST_PAUSE_SECONDS = 0.1
_DEAD_LETTER_RETENTION_SECONDS = 14 * 86_400
_VISIBILITY_SECONDS = 30
_MAX_RECEIVES = 5


def create_login_queue(client: "SQSClient", name: str) -> str:
    """Return the URL of a queue, having made it and its dead-letter queue ``<name>-dlq`` where they are missing.

    Five receives move a message to the dead-letter queue, which keeps it 14 days. Queues that exist stay as they are.

    Raises:
        QueueError: the endpoint is out of reach or refuses.
    """
    with queue_errors(name):
        dead_letters = _made(client, f"{name}-dlq", {"MessageRetentionPeriod": str(_DEAD_LETTER_RETENTION_SECONDS)})
        attributes = client.get_queue_attributes(QueueUrl=dead_letters, AttributeNames=["QueueArn"])["Attributes"]
        redrive = f'{{"deadLetterTargetArn": "{attributes["QueueArn"]}", "maxReceiveCount": "{_MAX_RECEIVES}"}}'
        return _made(client, name, {"VisibilityTimeout": str(_VISIBILITY_SECONDS), "RedrivePolicy": redrive})


def _made(client: "SQSClient", name: str, attributes: "dict[QueueAttributeNameType, str]") -> str:
    try:
        return client.get_queue_url(QueueName=name)["QueueUrl"]
    except client.exceptions.QueueDoesNotExist:
        return client.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]


def send_bodies(
    client: "SQSClient", queue_url: str, bodies: Iterable[str], progress: Callable[[int], None] | None = None
) -> int:
    """Send messages, ten and at most 1 MiB a call, several calls at once; they do not keep their order.

    Args:
        client: of the queue's endpoint.
        queue_url: the queue's.
        bodies: read as they are sent, never all at once.
        progress: called after each call with the number of messages that it added.

    Returns:
        How many were sent.

    Raises:
        QueueError: the endpoint is out of reach or refuses, or single messages were refused four times in a row;
            says how many were and why. Others may have been sent.
    """
    sent = 0
    refused: Counter[str] = Counter()
    running: set[Future[tuple[int, Counter[str]]]] = set()
    batches = _batches(bodies)
    with queue_errors(queue_url.rsplit("/", 1)[-1]), ThreadPoolExecutor(_SENDERS) as senders:
        while True:
            # None is begun after a refusal; those under way are still counted.
            while len(running) < 2 * _SENDERS and not refused and (batch := next(batches, None)):
                running.add(senders.submit(_send, client, queue_url, batch))
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
            f"{refused.total()} messages were refused ({codes}) and {sent} sent: mend that and send the rest"
        )
    return sent


def _batches(bodies: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for body in bodies:
        length = len(body.encode())
        if batch and (len(batch) == BATCH_MOST or size + length > BATCH_BYTES_MOST):
            yield batch
            batch, size = [], 0
        batch.append(body)
        size += length
    if batch:
        yield batch


def _send(client: "SQSClient", queue_url: str, bodies: list[str]) -> tuple[int, Counter[str]]:
    """Return how many of a batch were sent, and the codes of those that were refused to the end."""
    waiting: list[SendMessageBatchRequestEntryTypeDef] = [
        {"Id": str(number), "MessageBody": body} for number, body in enumerate(bodies)
    ]
    if queue_url.endswith(".fifo"):
        for entry in waiting:
            entry["MessageGroupId"] = "logins"
            entry["MessageDeduplicationId"] = uuid4().hex
    codes: Counter[str] = Counter()
    for attempt in range(_ATTEMPTS):
        time.sleep(_FIRST_PAUSE_SECONDS * 2**attempt if attempt else 0)
        # A 200 does not mean that every entry was taken.
        failed = {
            entry["Id"]: entry["Code"]
            for entry in client.send_message_batch(QueueUrl=queue_url, Entries=waiting).get("Failed", [])
        }
        codes = Counter(failed.values())
        waiting = [entry for entry in waiting if entry["Id"] in failed]
        if not waiting:
            break
    return len(bodies) - len(waiting), codes
