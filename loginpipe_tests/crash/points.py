"""The points where a run can be stopped: hooks on the SQS client, on the receiver and on the warehouse connection.

Nothing is replaced. Each hook does what the original does, and something else before or after it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from threading import Event, Lock
from typing import Any, Final
from unittest.mock import patch

import psycopg2
from psycopg2.extensions import cursor

from loginpipe.common.settings import load_settings
from loginpipe.defs.resources import SqsResource
from loginpipe.postgres.connections import Connection
from loginpipe.sqs import deliveries
from loginpipe.sqs.receiver import Received, Receiver

DELETED_CALLS: Final = 2
"""After this many delete calls, some messages of a batch are deleted, but not all."""


class Point(StrEnum):
    """A moment in the processing of one batch, in order."""

    RECEIVING = "receiving"
    """A response with messages has arrived; other long polls may be in flight."""
    RECEIVED = "received"
    """The batch is taken; the next one is being received."""
    PROCESSED = "processed"
    """The batch is validated, masked and sealed; its transaction has just started."""
    COPIED = "copied"
    """In its transaction, after the COPY of its logins."""
    WRITTEN = "written"
    """The transaction has done everything except the commit."""
    RECORDED = "recorded"
    """Committed; none of its messages is deleted."""
    HALF_DELETED = "half-deleted"
    DELETED = "deleted"
    """All messages are deleted; the deletes are not recorded yet."""


@contextmanager
def stopping_at(
    point: Point | None, act: Callable[[], object], *, batch: int = 1, receives: bool = True
) -> Iterator[dict[str, object]]:
    """Yield resources for `loginpipe.definitions.build_definitions` that act once, when a run reaches a point.

    In this context, warehouse connections have hooks, and polls of the queue are short, because the endpoints of the
    tests know at once that no message is left.

    Args:
        point: where to act; None for nowhere.
        act: called at the point, in the thread of the run that reaches it.
        batch: the batch of the run in which to act, counted from 1. For ``RECEIVING``: the number of answers.
        receives: whether the run continues to receive while ``act`` runs.
    """
    hooks = _Hooks(point, act, batch, receives=receives)
    connect, hooked = psycopg2.connect, _connection_class(hooks)

    def hooked_connect(*arguments: Any, **options: Any) -> Connection:
        return connect(*arguments, **(options | {"connection_factory": hooked}))

    with patch.object(psycopg2, "connect", hooked_connect), patch.object(deliveries, "LONG_POLL_SECONDS", 0):
        yield {"sqs": _queue(hooks)}


class _Hooks:
    """The action at the point, and the progress of the run."""

    def __init__(self, point: Point | None, act: Callable[[], object], batch: int, *, receives: bool) -> None:
        self._point = point
        self._act = act
        self._batch = batch
        self._receives = receives
        self._may_receive = Event()
        self._may_receive.set()
        self._lock = Lock()
        self._receiving = Lock()
        self._deleting = Lock()
        self._taken = 0
        self._recorded = 0
        self._answers = 0
        self._undeleted: list[int] = []
        self._calls = 0
        self._sizes: list[int] = []

    def at(self, point: Point, batch: int) -> None:
        with self._lock:
            if point is not self._point or batch != self._batch:
                return
            self._point = None
        if not self._receives:
            self._may_receive.clear()
        try:
            self._act()
        finally:
            self._may_receive.set()

    def before_receiving(self) -> None:
        self._may_receive.wait()

    def received_some(self) -> None:
        # Other receivers wait for the one at the point, because otherwise they would receive all messages in that time.
        with self._receiving:
            self._answers += 1
            self.at(Point.RECEIVING, self._answers)

    def taken(self, messages: int) -> None:
        self._taken += 1
        self._sizes.append(messages)
        self.at(Point.RECEIVED, self._taken)

    def in_transaction(self, point: Point) -> None:
        self.at(point, self._recorded + 1)

    def recorded(self) -> None:
        self._recorded += 1
        self.at(Point.RECORDED, self._recorded)

    def deleted(self, entries: int) -> None:
        # As in received_some. Batches are deleted one after the other.
        with self._deleting:
            batch = len(self._undeleted)
            if not batch or self._undeleted[-1] <= 0:
                if batch >= len(self._sizes):
                    return
                self._undeleted.append(self._sizes[batch])
                batch, self._calls = batch + 1, 0
            self._calls += 1
            self._undeleted[-1] -= entries
            if self._undeleted[-1] <= 0:
                self.at(Point.DELETED, batch)
            elif self._calls == DELETED_CALLS:
                self.at(Point.HALF_DELETED, batch)


def _connection_class(hooks: _Hooks) -> type[Connection]:  # noqa: C901 - two small classes
    class HookedConnection(Connection):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.records = False
            self.cursor_factory = Cursor

        def commit(self) -> None:
            records, self.records = self.records, False
            if records:
                hooks.in_transaction(Point.WRITTEN)
            super().commit()
            if records:
                hooks.recorded()

        def rollback(self) -> None:
            self.records = False
            super().rollback()

    class Cursor(cursor):
        connection: HookedConnection

        def execute(self, query: Any, parameters: Any = None) -> None:
            super().execute(query, parameters)
            if isinstance(query, str) and "CREATE TEMPORARY TABLE IF NOT EXISTS incoming_logins" in query:
                hooks.in_transaction(Point.PROCESSED)
            elif isinstance(query, str) and "INSERT INTO loginpipe.batches" in query:
                self.connection.records = True

        def copy_expert(self, sql: Any, file: Any, size: int = 8192) -> None:
            super().copy_expert(sql, file, size)
            if sql.as_string(self).split('"')[1] == "incoming_logins":
                hooks.in_transaction(Point.COPIED)

    return HookedConnection


class _HookedClient:
    """An SQS client that calls the hooks before and after its answers."""

    def __init__(self, client: Any, hooks: _Hooks) -> None:
        self._client = client
        self._hooks = hooks

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def receive_message(self, **request: Any) -> Any:
        self._hooks.before_receiving()
        answer = self._client.receive_message(**request)
        if answer.get("Messages"):
            self._hooks.received_some()
        return answer

    def delete_message_batch(self, **request: Any) -> Any:
        answer = self._client.delete_message_batch(**request)
        self._hooks.deleted(len(request["Entries"]))
        return answer


def _queue(hooks: _Hooks) -> SqsResource:
    class HookedReceiver(Receiver):
        def next_batch(self, wait_seconds: float) -> Received | None:
            batch = super().next_batch(wait_seconds)
            if batch is not None:
                hooks.taken(len(batch.messages))
            return batch

    class Queue(SqsResource):
        def receiver(self) -> Receiver:
            client: Any = _HookedClient(self._queue.client, hooks)
            self._queue = replace(self._queue, client=client)
            return HookedReceiver(
                self._queue,
                self._leases,
                batch_messages=self.batch_messages,
                linger_seconds=self.linger_seconds,
                visibility_seconds=self.visibility_seconds,
                receivers=self.receivers,
            )

    settings = load_settings()
    return Queue(
        settings=settings,
        queue=settings.queue,
        batch_messages=settings.batch_messages,
        linger_seconds=settings.linger_seconds,
        visibility_seconds=settings.visibility_seconds,
        receivers=settings.receivers,
    )
