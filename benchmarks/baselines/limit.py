"""Measure the limit: the pipeline's own client only receives and deletes.

The difference to the pipeline is the cost of its own work. No pipeline with this client can be faster than the limit.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from loginpipe.common.settings import load_settings
from loginpipe.sqs.client import MAX_BATCH, Queue, open_queue
from loginpipe.sqs.deliveries import LONG_POLL_SECONDS

if TYPE_CHECKING:
    from mypy_boto3_sqs.type_defs import MessageTypeDef


def main() -> None:
    """Receive and delete, with the pipeline's maximum number of threads, until the queue is empty."""
    settings = load_settings()
    queue = open_queue(settings.queue, settings, connections=settings.receivers)
    with ThreadPoolExecutor(settings.receivers) as pool:
        for done in [pool.submit(drain, queue, settings.visibility_seconds) for _ in range(settings.receivers)]:
            done.result()


def drain(queue: Queue, visibility_seconds: int) -> None:
    """Receive and delete ten messages at a time, until a long poll returns nothing."""
    while messages := received(queue, visibility_seconds):
        answer = queue.client.delete_message_batch(
            QueueUrl=queue.url,
            Entries=[
                {"Id": str(place), "ReceiptHandle": message["ReceiptHandle"]} for place, message in enumerate(messages)
            ],
        )
        if answer.get("Failed"):
            raise RuntimeError("a message was not deleted")


def received(queue: Queue, visibility_seconds: int) -> "list[MessageTypeDef]":
    """Receive ten messages, with the parameters of `loginpipe.sqs.deliveries`."""
    answer = queue.client.receive_message(
        QueueUrl=queue.url,
        MaxNumberOfMessages=MAX_BATCH,
        WaitTimeSeconds=LONG_POLL_SECONDS,
        VisibilityTimeout=visibility_seconds,
        MessageSystemAttributeNames=["SentTimestamp", "ApproximateReceiveCount"],
        MessageAttributeNames=["loginpipe.*"],
    )
    return answer.get("Messages", [])


if __name__ == "__main__":
    main()
