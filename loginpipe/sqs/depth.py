"""How many messages a queue holds. SQS calls these numbers approximate; they take up to a minute to settle."""

from dataclasses import dataclass

from loginpipe.sqs.client import Queue, queue_errors


@dataclass(frozen=True)
class Depth:
    """A queue's messages by state: to be received, received and not deleted yet, delayed by their sender."""

    visible: int
    in_flight: int
    delayed: int

    def __str__(self) -> str:
        return f"{self.visible:,} waiting, {self.in_flight:,} in flight, {self.delayed:,} delayed"


def read_depth(queue: Queue) -> Depth:
    """Ask the queue for its depth.

    Raises:
        QueueError: it cannot be asked.
    """
    with queue_errors(queue.name):
        attributes = queue.client.get_queue_attributes(
            QueueUrl=queue.url,
            AttributeNames=[
                "ApproximateNumberOfMessages",
                "ApproximateNumberOfMessagesNotVisible",
                "ApproximateNumberOfMessagesDelayed",
            ],
        )["Attributes"]
    return Depth(
        visible=int(attributes["ApproximateNumberOfMessages"]),
        in_flight=int(attributes["ApproximateNumberOfMessagesNotVisible"]),
        delayed=int(attributes["ApproximateNumberOfMessagesDelayed"]),
    )
