"""How many messages a queue holds. SQS calls these numbers approximate; they take up to a minute to settle."""

from dataclasses import dataclass

from loginpipe.sqs.client import Queue, queue_errors

MAX_IN_FLIGHT = 120_000
"""SQS's limit of messages in flight on one queue. At the limit a long poll is silently empty."""

IN_FLIGHT_LIMIT_REACHED = (
    "in-flight limit reached: messages wait, but as many are in flight as SQS allows, so nothing can be received until "
    "consumers delete some or their visibility timeouts end; look for a consumer that receives and does not delete"
)

# The counts are approximate, so a queue near the limit is taken to be at it.
_APPROXIMATION = 0.95


@dataclass(frozen=True)
class Depth:
    """A queue's messages by state: to be received, received and not deleted yet, delayed by their sender."""

    visible: int
    in_flight: int
    delayed: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.visible + self.in_flight + self.delayed

    @property
    def at_in_flight_limit(self) -> bool:
        """Whether messages wait that no consumer can receive, since as many are in flight as SQS allows."""
        return self.visible > 0 and self.in_flight >= MAX_IN_FLIGHT * _APPROXIMATION

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
