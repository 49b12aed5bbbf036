"""Where a run can be stopped: hooks on our own seams, the resources, the queue's client and the connection.

Nothing is replaced: each hook does what the original does, and something else before or after.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from functools import partial
from threading import Lock
from typing import Any, Final
from unittest.mock import patch

import dagster as dg
import pandas as pd
import psycopg2
from psycopg2.extensions import connection, cursor

from loginpipe.common.settings import load_settings
from loginpipe.defs.resources import PostgresResource, SqsResource
from loginpipe.masking.sealing import Sealed
from loginpipe.postgres.load import LoadCounts
from loginpipe.postgres.runs import Arrival
from loginpipe.sqs.deletion import Deletion
from loginpipe.sqs.receiver import Received


class Point(StrEnum):
    """A moment in a run, in the order of a run."""

    RECEIVING = "receiving"
    """A first answer with messages is here; the other long polls are under way."""
    RECEIVED = "received"
    """All messages are in hand."""
    JUDGED = "judged"
    """Validated; the rejects are not recorded."""
    REJECTS_WRITTEN = "rejects-written"
    """The rejects' transaction has done everything but commit."""
    REJECTS_RECORDED = "rejects-recorded"
    """Committed; no reject is deleted."""
    REJECTS_HALF_DELETED = "rejects-half-deleted"
    BEFORE_LOAD = "before-load"
    """Masked and sealed; the load's transaction has not begun."""
    COPIED = "copied"
    """In the load's transaction, after its COPY."""
    WRITTEN = "written"
    """The load's transaction has done everything but commit."""
    LOADED = "loaded"
    """Committed; no login is deleted."""
    HALF_DELETED = "half-deleted"
    DELETED = "deleted"
    """All deleted; the run's books are not closed."""


DELETED_CALLS: Final = 2
"""Delete calls after which some are deleted, and not all: at most three more are under way then."""


@contextmanager
def stopping_at(point: Point | None, act: Callable[[], object]) -> Iterator[dict[str, object]]:
    """Give resources for `loginpipe.definitions.build_definitions` that act once when a run comes to a point.

    Connections of the warehouse have hooks for as long as this context lasts.

    Args:
        point: which; None for nowhere.
        act: called there, in the thread of the run that comes there.
    """
    hooks = _Hooks(point, act)
    connect = partial(psycopg2.connect, connection_factory=_connection_class(hooks))
    with patch.object(psycopg2, "connect", connect):
        yield {"sqs": _queue(hooks), "postgres": _warehouse(hooks)}


class _Hooks:
    """What is to be done at the point, and whether the logins' turn has come to be deleted."""

    def __init__(self, point: Point | None, act: Callable[[], object]) -> None:
        self._point = point
        self._act = act
        self._lock = Lock()
        self._receiving = Lock()
        self._deleting = Lock()
        self._delete_calls = 0
        self._loaded = False

    def at(self, point: Point) -> None:
        with self._lock:
            if point is not self._point:
                return
            self._point = None
        self._act()

    def loaded(self) -> None:
        with self._lock:
            self._loaded, self._delete_calls = True, 0
        self.at(Point.LOADED)

    def received_some(self) -> None:
        # Whoever receives beside the one that comes to the point waits for it, or all would be received meanwhile.
        with self._receiving:
            self.at(Point.RECEIVING)

    def deleted_some(self) -> None:
        # As above.
        with self._deleting:
            self._delete_calls += 1
            if self._delete_calls == DELETED_CALLS:
                self.at(Point.HALF_DELETED if self._loaded else Point.REJECTS_HALF_DELETED)

    def deleted_all(self) -> None:
        if self._loaded:
            self.at(Point.DELETED)


def _connection_class(hooks: _Hooks) -> type[connection]:
    class Connection(connection):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.copied: set[str] = set()
            self.cursor_factory = Cursor

        def commit(self) -> None:
            if "incoming_logins" in self.copied:
                hooks.at(Point.WRITTEN)
            elif "incoming_rejects" in self.copied:
                hooks.at(Point.REJECTS_WRITTEN)
            super().commit()
            self.copied.clear()

        def rollback(self) -> None:
            self.copied.clear()
            super().rollback()

    class Cursor(cursor):
        connection: Connection

        def copy_expert(self, sql: Any, file: Any, size: int = 8192) -> None:
            super().copy_expert(sql, file, size)
            table = sql.as_string(self).split('"')[1]
            self.connection.copied.add(table)
            if table == "incoming_logins":
                hooks.at(Point.COPIED)

    return Connection


class _HookedClient:
    """A client of SQS that comes by points whenever it is answered."""

    def __init__(self, client: Any, hooks: _Hooks) -> None:
        self._client = client
        self._hooks = hooks

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def receive_message(self, **request: Any) -> Any:
        answer = self._client.receive_message(**request)
        if answer.get("Messages"):
            self._hooks.received_some()
        return answer

    def delete_message_batch(self, **request: Any) -> Any:
        answer = self._client.delete_message_batch(**request)
        self._hooks.deleted_some()
        return answer


def _queue(hooks: _Hooks) -> SqsResource:
    class Queue(SqsResource):
        @contextmanager
        def yield_for_execution(self, context: dg.InitResourceContext) -> Generator["SqsResource", None, None]:
            with super().yield_for_execution(context) as resource:
                client: Any = _HookedClient(self._queue.client, hooks)
                self._queue = replace(self._queue, client=client)
                yield resource

        def receive(self) -> Received:
            batch = super().receive()
            hooks.at(Point.RECEIVED)
            return batch

        def delete(self, message_ids: Iterable[str]) -> Deletion:
            deletion = super().delete(message_ids)
            hooks.deleted_all()
            return deletion

    settings = load_settings()
    return Queue(
        settings=settings,
        queue=settings.queue,
        batch_messages=settings.batch_messages,
        batch_seconds=settings.batch_seconds,
        visibility_seconds=settings.visibility_seconds,
        receivers=settings.receivers,
    )


def _warehouse(hooks: _Hooks) -> PostgresResource:
    class Warehouse(PostgresResource):
        def record_rejects(self, rejected: pd.DataFrame, sealed: Sealed, arrival: Arrival) -> int:
            hooks.at(Point.JUDGED)
            recorded = super().record_rejects(rejected, sealed, arrival)
            hooks.at(Point.REJECTS_RECORDED)
            return recorded

        def load(self, *arguments: Any, **options: Any) -> LoadCounts:
            hooks.at(Point.BEFORE_LOAD)
            counts = super().load(*arguments, **options)
            hooks.loaded()
            return counts

    return Warehouse(settings=load_settings())
