"""Define Dagster resources: thin shells around the packages. In-process, each is one object for the whole run.

All are opened before the step begins. So a wrong setting, a missing queue, an unreachable or unmigrated database or an
unreadable key ends a run before it receives a message.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from math import ceil
from typing import TypeVar

import dagster as dg
from pydantic import Field, PrivateAttr

from loginpipe.common.errors import runbook
from loginpipe.common.interpreter import tuned_for_a_run
from loginpipe.common.secrets import database_url
from loginpipe.common.settings import Settings
from loginpipe.ingest.masking import load_masking, masking_warnings
from loginpipe.ingest.process import Masking
from loginpipe.postgres.connections import Connection
from loginpipe.postgres.migrate import require_migrated
from loginpipe.postgres.session import Session
from loginpipe.sqs.client import MAX_BATCH, Depth, Queue, open_queue, read_depth
from loginpipe.sqs.leases import LeaseKeeper
from loginpipe.sqs.receiver import Receiver

T = TypeVar("T")

# Concurrent lease extensions, each of up to ten messages, for a batch of the usual size.
_CALLS_AT_ONCE = 8
# As many threads and connections as receivers may have. Enough for any batch at the usual visibility timeout.
_MAX_CALLS_AT_ONCE = 64
# Calls per second in sequence: a call is assumed to take ten times as long as within a region.
_CALLS_A_SECOND = 5
BATCHES_HELD = 3
"""Maximum batches that a run holds: one filling, one in progress and one being deleted."""


def calls_at_once(messages: int, visibility_seconds: int) -> int:
    """Return how many concurrent calls extend the leases of these messages within a third of the visibility timeout.

    If there are more messages than `most_kept`, the calls extend only a part of them in that time.
    """
    in_turn = visibility_seconds * _CALLS_A_SECOND // 3
    calls = ceil(messages / MAX_BATCH)
    return min(_MAX_CALLS_AT_ONCE, max(_CALLS_AT_ONCE, ceil(calls / in_turn)))


def most_kept(visibility_seconds: int) -> int:
    """Return how many messages in flight can have their leases extended within a third of the visibility timeout."""
    return _MAX_CALLS_AT_ONCE * MAX_BATCH * (visibility_seconds * _CALLS_A_SECOND // 3)


class SqsResource(dg.ConfigurableResource["SqsResource"]):
    """The SQS queue with the leases of this run's messages. Region, endpoint and credentials are those of boto3."""

    settings: dg.ResourceDependency[Settings]
    queue: str = Field(description="Name, URL or ARN of the queue.")
    batch_messages: int = Field(description="Maximum number of messages in a batch.")
    linger_seconds: float = Field(description="How long a batch waits for more after its first message, in seconds.")
    visibility_seconds: int = Field(description="Visibility timeout of each receive, in seconds.")
    receivers: int = Field(description="Maximum number of concurrent long polls.")

    _queue: Queue = PrivateAttr()
    _leases: LeaseKeeper = PrivateAttr()

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Generator["SqsResource", None, None]:
        """Open the queue. At the end, even after an error, return all messages that were not deleted."""
        # A run holds the queue from beginning to end, so the interpreter is tuned here.
        with tuned_for_a_run():
            held = BATCHES_HELD * self.batch_messages
            calls = calls_at_once(held, self.visibility_seconds)
            self._queue = open_queue(self.queue, self.settings, connections=2 * self.receivers + calls)
            self._leases = LeaseKeeper(self._queue, visibility_seconds=self.visibility_seconds, calls_at_once=calls)
            if held > (most := most_kept(self.visibility_seconds)) and context.log:
                context.log.warning(
                    "LOGINPIPE_BATCH_MESSAGES is %d, but leases of %d s can be extended in time for batches of %d "
                    "only: set it to that, or raise LOGINPIPE_VISIBILITY_SECONDS; see %s",
                    self.batch_messages,
                    self.visibility_seconds,
                    most // BATCHES_HELD,
                    runbook("leases-lost"),
                )
            try:
                yield self
            finally:
                back = self._leases.close()
                if back.total and context.log:
                    context.log.warning(
                        "%d messages were not deleted and returned to queue %r, %d of them after their timeout; "
                        "%d leases were lost; see %s",
                        back.total,
                        self.name,
                        back.total - back.returned,
                        self._leases.lost,
                        runbook("a-run-fails"),
                        extra={"returned": back.returned, "queue": self.name, "leases_lost": self._leases.lost},
                    )
                self._queue.client.close()

    @property
    def name(self) -> str:
        """The queue's name."""
        return self._queue.name

    @property
    def opened(self) -> Queue:
        """The open queue."""
        return self._queue

    @property
    def leases(self) -> LeaseKeeper:
        """The leases of this run's messages."""
        return self._leases

    def receiver(self) -> Receiver:
        """Return a receiver of batches. Their messages stay leased until they are deleted or returned."""
        return Receiver(
            self._queue,
            self._leases,
            batch_messages=self.batch_messages,
            linger_seconds=self.linger_seconds,
            visibility_seconds=self.visibility_seconds,
            receivers=self.receivers,
            resent_days=self.settings.resent_days,
        )

    def depth(self) -> Depth:
        """Read the queue's depth."""
        return read_depth(self._queue)


class PostgresResource(dg.ConfigurableResource["PostgresResource"]):
    """The Postgres database of ``user_logins``: one connection for the run."""

    settings: dg.ResourceDependency[Settings]
    database_url: str | None = Field(
        default=None,
        repr=False,
        description="Connection URL. Leave it out to use LOGINPIPE_DATABASE_URL: Dagster stores configuration.",
        json_schema_extra={"dagster__is_secret": True},
    )

    _session: Session = PrivateAttr()

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Generator["PostgresResource", None, None]:  # noqa: ARG002
        """Connect, and check that the database is migrated."""
        self._session = Session(self.database_url or database_url(self.settings))
        try:
            self._session.run(require_migrated)
            yield self
        finally:
            self._session.close()

    def run(self, work: Callable[[Connection], T]) -> T:
        """Run work in its own transactions, and retry it after transient errors. Raises as `Session.run`."""
        return self._session.run(work)

    @contextmanager
    def giving_up_when(self, give_up: Callable[[], bool]) -> Iterator[Session]:
        """Yield the run's session. Within the context, failed work is retried only until ``give_up`` returns True."""
        self._session.give_up = give_up
        try:
            yield self._session
        finally:
            self._session.give_up = lambda: False


class MaskingResource(dg.ConfigurableResource["MaskingResource"]):
    """The token keys, and the public keys to seal recoverable values for."""

    settings: dg.ResourceDependency[Settings]

    _loaded: Masking = PrivateAttr()

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Load the keys once for the run, and log their warnings."""
        self._loaded = load_masking(self.settings)
        if context.log:
            for warning in masking_warnings(self._loaded):
                context.log.warning("%s", warning)

    @property
    def loaded(self) -> Masking:
        """The loaded keys."""
        return self._loaded


def resources_from(settings: Settings) -> dict[str, object]:
    """Return the resources for these settings, by resource key."""
    return {
        "sqs": SqsResource(
            settings=settings,
            queue=settings.queue,
            batch_messages=settings.batch_messages,
            linger_seconds=settings.linger_seconds,
            visibility_seconds=settings.visibility_seconds,
            receivers=settings.receivers,
        ),
        "settings": settings,
        "postgres": PostgresResource(settings=settings),
        "masking": MaskingResource(settings=settings),
    }
