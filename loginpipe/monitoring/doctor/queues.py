"""What `doctor` looks at on SQS: the login queue, and its dead-letter queue."""

from loginpipe.common.errors import LoginpipeError
from loginpipe.common.settings import Settings
from loginpipe.sqs.client import Queue, open_queue, queue_errors
from loginpipe.sqs.dead_letters import redrive_policy
from loginpipe.sqs.depth import STALL, read_depth

# Below that, two failed runs in a row send good messages to the dead-letter queue.
_RECEIVES_LEAST = 3

# SQS's longest MessageRetentionPeriod, in seconds.
_RETENTION_MOST = 14 * 86_400


def queue(settings: Settings) -> str:
    """Look at the queue's depth."""
    queue = open_queue(settings.queue, settings, connections=1)
    depth = read_depth(queue)
    if depth.stalled:
        raise LoginpipeError(f"queue {queue.name!r}: {depth}; {STALL}")
    return f"{queue.name!r}: {depth}"


def dead_letters(settings: Settings) -> str:
    """Look whether there is a dead-letter queue, when messages go there, how long it keeps them, and what it holds."""
    queue = open_queue(settings.queue, settings, connections=1)
    policy = redrive_policy(queue)
    if policy is None:
        raise LoginpipeError(f"queue {queue.name!r} has none: give it a redrive policy with maxReceiveCount 5")
    if policy.max_receives < _RECEIVES_LEAST:
        raise LoginpipeError(
            f"maxReceiveCount of queue {queue.name!r} is {policy.max_receives}: make it {_RECEIVES_LEAST} or more, "
            "since every failed run counts as a receive"
        )
    retention = _retention(queue)
    if _retention(policy.dead_letters) <= retention:
        mend = (
            f"make its MessageRetentionPeriod longer than {retention:,} s"
            if retention < _RETENTION_MOST
            else f"lower that of {queue.name!r}, which is SQS's longest"
        )
        raise LoginpipeError(
            f"queue {policy.dead_letters.name!r} keeps messages no longer than {queue.name!r} does: {mend}, since a "
            "message keeps its age when it moves"
        )
    depth = read_depth(policy.dead_letters)
    if depth.total:
        raise LoginpipeError(
            f"{policy.dead_letters.name!r} holds messages: {depth}; find the cause, then `loginpipe dlq redrive`"
        )
    return f"{policy.dead_letters.name!r}: empty; messages come after {policy.max_receives} receives"


def _retention(queue: Queue) -> int:
    with queue_errors(queue.name):
        attributes = queue.client.get_queue_attributes(QueueUrl=queue.url, AttributeNames=["MessageRetentionPeriod"])
        return int(attributes["Attributes"]["MessageRetentionPeriod"])
