"""Read how many messages a queue holds. SQS's numbers are approximate and take up to a minute to settle."""

from dataclasses import dataclass

from loginpipe.sqs.client import Queue, queue_errors

MAX_IN_FLIGHT = 120_000
"""SQS's limit of messages in flight on one queue. At the limit a long poll is empty without an error."""

IN_FLIGHT_LIMIT_REACHED = (
    "in-flight limit reached: messages wait, but as many are in flight as SQS allows, so nothing can be received until "
    "consumers delete some or their visibility timeouts end; look for a consumer that receives and does not delete"
)

# A queue near the limit counts as at it, because the counts are approximate.
_APPROXIMATION = 0.95


@dataclass(frozen=True)
class Depth:
    """A queue's messages by state: visible, received and not deleted yet, delayed by their sender."""

    visible: int
    in_flight: int
    delayed: int

    @property
    def total(self) -> int:
        """Return the number of all messages."""
        return self.visible + self.in_flight + self.delayed

    @property
    def at_in_flight_limit(self) -> bool:
        """Return True if messages wait that no consumer can receive because the in-flight limit is reached."""
        return self.visible > 0 and self.in_flight >= MAX_IN_FLIGHT * _APPROXIMATION

    def __str__(self) -> str:
        return f"{self.visible:,} waiting, {self.in_flight:,} in flight, {self.delayed:,} delayed"


def read_depth(queue: Queue) -> Depth:
    """Read the depth of a queue.

    Raises:
        QueueError: it cannot be read.
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
