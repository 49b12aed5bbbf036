"""The Dagster resource of the queue: what a run has received, and the leases on it."""

from collections import Counter
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from math import ceil

import dagster as dg
from pydantic import Field, PrivateAttr

from loginpipe.common.gc_tuning import rare_collections
from loginpipe.common.runbook import runbook
from loginpipe.common.settings import Settings
from loginpipe.sqs.client import BATCH_MOST, Queue, open_queue
from loginpipe.sqs.dead_letters import redrive_policy
from loginpipe.sqs.deletion import Deletion, delete_messages
from loginpipe.sqs.depth import Depth, read_depth
from loginpipe.sqs.leases import LeaseKeeper
from loginpipe.sqs.receiver import Received, receive_batch

# Lease extensions under way at once, each of up to ten messages, for a batch of the usual size.
_CALLS_AT_ONCE = 8

# As many threads and connections as receivers may have: enough for any batch at the usual visibility timeout.
_CALLS_AT_ONCE_MOST = 64

# One after the other: a call is reckoned to take ten times what it does within a region.
_CALLS_A_SECOND = 5


def calls_at_once(batch_messages: int, visibility_seconds: int) -> int:
    """Return how many calls at once extend the leases of a whole batch in a third of the visibility timeout.

    Of a batch larger than `most_kept` they extend a part in that time.
    """
    in_turn = visibility_seconds * _CALLS_A_SECOND // 3
    calls = ceil(batch_messages / BATCH_MOST)
    return min(_CALLS_AT_ONCE_MOST, max(_CALLS_AT_ONCE, ceil(calls / in_turn)))


def most_kept(visibility_seconds: int) -> int:
    """Return how many messages in flight all have their leases extended in a third of the visibility timeout."""
    return _CALLS_AT_ONCE_MOST * BATCH_MOST * (visibility_seconds * _CALLS_A_SECOND // 3)


class SqsResource(dg.ConfigurableResource["SqsResource"]):
    """The SQS queue, with the leases of what this run has received. Region, endpoint and credentials are boto3's."""

    settings: dg.ResourceDependency[Settings]
    queue: str = Field(description="Name or URL of the queue.")
    batch_messages: int = Field(description="Most messages in one run.")
    batch_seconds: float = Field(description="Longest time of receiving in one run, in seconds.")
    visibility_seconds: int = Field(description="Visibility timeout asked for with each receive, in seconds.")
    receivers: int = Field(description="Long polls at once, at most.")

    _queue: Queue = PrivateAttr()
    _leases: LeaseKeeper = PrivateAttr()
    _delivery_ids: Mapping[str, set[str]] = PrivateAttr(default_factory=dict)
    _calls_that_pay: int = PrivateAttr(default=1)
    _deleted: int = PrivateAttr(default=0)
    _failures: Counter[str] = PrivateAttr(default_factory=Counter)

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Generator["SqsResource", None, None]:
        """Look the queue up; at the end, in success or failure, hand back whatever was not deleted."""
        # The queue is what a run has in hand from its beginning to its end.
        with rare_collections():
            calls = calls_at_once(self.batch_messages, self.visibility_seconds)
            self._queue = open_queue(self.queue, self.settings, connections=self.receivers + calls)
            self._leases = LeaseKeeper(self._queue, visibility_seconds=self.visibility_seconds, calls_at_once=calls)
            if self.batch_messages > (most := most_kept(self.visibility_seconds)) and context.log:
                context.log.warning(
                    "LOGINPIPE_BATCH_MESSAGES is %d, and leases of %d s are sure to be kept for %d messages: set it to "
                    "that, or raise LOGINPIPE_VISIBILITY_SECONDS; see %s",
                    self.batch_messages,
                    self.visibility_seconds,
                    most,
                    runbook("leases-lost"),
                )
            try:
                yield self
            finally:
                back = self._leases.close()
                if back.total and context.log:
                    context.log.warning(
                        "%d messages were not deleted and went back to queue %r, %d of them by themselves; "
                        "%d leases were lost; see %s",
                        back.total,
                        self.name,
                        back.total - back.returned,
                        self.leases_lost,
                        runbook("a-run-fails"),
                        extra={"handed_back": back.returned, "queue": self.name, "leases_lost": self.leases_lost},
                    )
                self._queue.client.close()

    @property
    def name(self) -> str:
        """The queue's name."""
        return self._queue.name

    @property
    def deletion(self) -> Deletion:
        """What became of all deletes of this run so far."""
        return Deletion(self._deleted, self._failures)

    @property
    def leases_lost(self) -> int:
        """Leases of this run that ended before their message was deleted."""
        return self._leases.lost

    def depth(self) -> Depth:
        """Ask the queue for its depth."""
        return read_depth(self._queue)

    def dead_letters(self) -> Depth | None:
        """Ask the dead-letter queue for its depth; None where the queue has none."""
        policy = redrive_policy(self._queue)
        return read_depth(policy.dead_letters) if policy else None

    def receive(self) -> Received:
        """Take a bounded bite of the queue; its messages stay ours until deleted or handed back."""
        received = receive_batch(
            self._queue,
            self._leases,
            most=self.batch_messages,
            seconds=self.batch_seconds,
            visibility_seconds=self.visibility_seconds,
            receivers=self.receivers,
        )
        self._delivery_ids = received.delivery_ids
        self._calls_that_pay = received.receivers
        return received

    def delete(self, message_ids: Iterable[str]) -> Deletion:
        """Delete messages whose outcome is committed."""
        # Looked up once: a private attribute of pydantic's takes a microsecond.
        delivery_ids = self._delivery_ids
        deliveries = [delivery for i in message_ids for delivery in delivery_ids.get(i, (i,))]
        deletion = delete_messages(self._queue, self._leases, deliveries, calls_at_once=self._calls_that_pay)
        self._deleted += deletion.deleted
        self._failures += deletion.failures
        return deletion
