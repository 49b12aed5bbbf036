"""Metrics for Prometheus, read at each scrape from the durable tables and the queue: no restart loses any."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from threading import Lock, Thread
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from loginpipe.common.errors import LoginpipeError
from loginpipe.common.settings import Settings
from loginpipe.monitoring.metric_families import lag_metric, queue_metrics, table_metrics
from loginpipe.postgres.connections import Connection
from loginpipe.postgres.metrics import Totals, VaultTotals, read_totals, read_vault
from loginpipe.postgres.session import Session
from loginpipe.sqs.client import Queue, open_queue
from loginpipe.sqs.dead_letters import DeadLetterDepth, read_dead_letters
from loginpipe.sqs.depth import Depth, read_depth

T = TypeVar("T")

_RETRY_SECONDS = 3
# A scrape that waits longer is given up by Prometheus, whose default is 10 s.
_ANSWER_SECONDS = 8

# What was recorded longer ago does not change any more: deletes take ten minutes at most. It is read once a process and
# kept, since a month of batches takes seconds.
_SETTLED = timedelta(hours=1)


@dataclass(frozen=True)
class _QueueState:
    name: str
    depth: Depth
    dead_letters: DeadLetterDepth | None


class Source(Generic[T]):
    """A source that is asked in its own thread: while it hangs, the others answer, and the next scrape waits again."""

    def __init__(self, read: Callable[[], T]) -> None:
        self._read = read
        self._asked: Future[T | None] | None = None

    def ask(self) -> None:
        """Start a question, unless the last one is still open."""
        if self._asked is None:
            self._asked = Future()
            # A daemon: a source that does not answer must not keep the process alive.
            Thread(target=self._answer, args=(self._asked,), name="source", daemon=True).start()

    def answer(self, deadline: float) -> T | None:
        """Return the answer; None where the source failed, or did not answer by the deadline.

        Args:
            deadline: by `time.monotonic`.
        """
        asked = self._asked
        if asked is None:
            return None
        try:
            answer = asked.result(max(deadline - time.monotonic(), 0))
        except TimeoutError:
            return None
        finally:
            if asked.done():
                self._asked = None
        return answer

    def _answer(self, asked: "Future[T | None]") -> None:
        try:
            asked.set_result(self._read())
        except LoginpipeError:
            asked.set_result(None)
        except BaseException as error:  # noqa: BLE001  a bug is raised where the answer is waited for
            asked.set_exception(error)


class PipelineCollector(Collector):
    """Asks queue and database at each scrape. One that does not answer has no metrics but ``loginpipe_source_up``."""

    def __init__(self, settings: Settings, database_url: str) -> None:
        self._settings = settings
        self._database_url = database_url
        self._queue: Queue | None = None
        self._session: Session | None = None
        self._settled = Totals({}, Counter())
        self._settled_until: datetime | None = None
        self._queue_source = Source(self._read_queue)
        self._database_source = Source(self._read_database)
        # The server answers each scrape in a thread of its own, and there may be more than one Prometheus.
        self._lock = Lock()

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of each source."""
        with self._lock:
            deadline = time.monotonic() + _ANSWER_SECONDS
            self._queue_source.ask()
            self._database_source.ask()
            queue = self._queue_source.answer(deadline)
            tables = self._database_source.answer(deadline)
        up = GaugeMetricFamily(
            "loginpipe_source_up", "1 if a source of these metrics answered, else 0.", labels=["source"]
        )
        up.add_metric(["queue"], float(queue is not None))
        up.add_metric(["database"], float(tables is not None))
        yield up
        if queue is not None:
            yield from queue_metrics(queue.name, queue.depth, queue.dead_letters)
        if tables is not None:
            yield from table_metrics(*tables)
        if queue is not None and tables is not None:
            yield lag_metric(queue.name, queue.depth, tables[0].queues.get(queue.name), time.time())

    def _read_queue(self) -> _QueueState:
        if self._queue is None:
            self._queue = open_queue(self._settings.queue, self._settings, connections=1)
        return _QueueState(self._queue.name, read_depth(self._queue), read_dead_letters(self._queue))

    def _read_database(self) -> tuple[Totals, VaultTotals]:
        if self._session is None:
            self._session = Session(self._database_url, retry_seconds=_RETRY_SECONDS)
        return self._session.run(self._read_tables)

    def _read_tables(self, connection: Connection) -> tuple[Totals, VaultTotals]:
        settled_by = datetime.now(UTC) - _SETTLED
        if self._settled_until is None or settled_by - self._settled_until > _SETTLED:
            self._settled += read_totals(connection, since=self._settled_until, until=settled_by)
            self._settled_until = settled_by
        return self._settled + read_totals(connection, since=self._settled_until), read_vault(connection)


def registry(settings: Settings, database_url: str) -> CollectorRegistry:
    """Return a registry with the pipeline's metrics alone."""
    registry = CollectorRegistry()
    registry.register(PipelineCollector(settings, database_url))
    return registry
