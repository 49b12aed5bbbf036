"""Serve metrics to Prometheus. Each scrape reads the durable tables and the queue, so a restart loses none."""

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
# Prometheus gives up a scrape after 10 s by default.
_ANSWER_SECONDS = 8

# Batches recorded longer ago no longer change, because deletes take at most ten minutes. Their totals are read once per
# process and kept, because reading a month of batches takes seconds.
_SETTLED = timedelta(hours=1)


@dataclass(frozen=True)
class _QueueState:
    name: str
    depth: Depth
    dead_letters: DeadLetterDepth | None


class Source(Generic[T]):
    """A source that is read in its own thread. If it hangs, the others still answer; the next scrape waits again."""

    def __init__(self, read: Callable[[], T]) -> None:
        self._read = read
        self._asked: Future[T | None] | None = None

    def ask(self) -> None:
        """Start a read, unless one is in progress."""
        if self._asked is None:
            self._asked = Future()
            # A daemon thread, so that a hanging source does not keep the process alive.
            Thread(target=self._answer, args=(self._asked,), name="source", daemon=True).start()

    def answer(self, deadline: float) -> T | None:
        """Return the result, or None if the source failed or did not answer before the deadline, a `time.monotonic`."""
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
    """Reads queue and database at each scrape. If one does not answer, its only metric is ``loginpipe_source_up``."""

    def __init__(self, settings: Settings, database_url: str) -> None:
        self._settings = settings
        self._database_url = database_url
        self._queue: Queue | None = None
        self._session: Session | None = None
        self._settled = Totals({}, Counter())
        self._settled_until: datetime | None = None
        self._queue_source = Source(self._read_queue)
        self._database_source = Source(self._read_database)
        # The server handles each scrape in its own thread, and there may be several Prometheus servers.
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
    """Return a registry with only the pipeline's metrics."""
    registry = CollectorRegistry()
    registry.register(PipelineCollector(settings, database_url))
    return registry
