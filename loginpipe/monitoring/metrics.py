"""Collect the pipeline's metrics from queue and tables, for Prometheus and CloudWatch. docs/metrics.md lists them."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from math import inf
from threading import Lock, Thread
from typing import Any, Generic, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from loginpipe.common.errors import LoginpipeError
from loginpipe.common.settings import Settings
from loginpipe.logins.delays import DELAY_BOUNDS
from loginpipe.postgres.batches import QueueTotals, Totals, read_totals
from loginpipe.postgres.connections import Connection
from loginpipe.postgres.session import Session
from loginpipe.postgres.vault import VaultTotals, read_vault
from loginpipe.sqs.client import Depth, Queue, open_queue, read_depth
from loginpipe.sqs.dead_letters import DeadLetterDepth, read_dead_letters

T = TypeVar("T")

_MESSAGES = {
    "received": "Messages received from the queue, each counted once per run.",
    "inserted": "Rows added to user_logins.",
    "duplicates": "Messages skipped because their outcome was already recorded.",
    "rejected": "Messages rejected: invalid, or from a user who was erased.",
    "deleted": "Messages deleted from the queue, confirmed by SQS.",
    "delete_failures": "Messages recorded but not deleted: they are delivered again and change nothing.",
    "leases_lost": "Messages whose visibility timeout expired while a run processed them.",
}


def _filled(
    family: GaugeMetricFamily | CounterMetricFamily, samples: Iterable[tuple[str | tuple[str, ...], float | None]]
) -> Metric:
    """Add samples to a family, without those that are None. Each has the values of the family's labels."""
    for labels, value in samples:
        if value is not None:
            family.add_metric([labels] if isinstance(labels, str) else labels, value)
    return family


def _gauge(name: str, meaning: str, samples: Mapping[str, float | None], label: str = "queue") -> Metric:
    return _filled(GaugeMetricFamily(name, meaning, labels=[label]), samples.items())


def _counter(name: str, meaning: str, samples: Mapping[str, float]) -> Metric:
    return _filled(CounterMetricFamily(name, meaning, labels=["queue"]), samples.items())


def queue_metrics(queue: str, depth: Depth, dead_letters: DeadLetterDepth | None) -> list[Metric]:
    """Return the metrics of a queue's depth and of its dead-letter queue, if it has one."""
    messages = GaugeMetricFamily(
        "loginpipe_queue_messages", "Approximate number of messages on the queue.", labels=["queue", "state"]
    )
    owners = dead_letters.owners if dead_letters else None
    return [
        _filled(messages, (((queue, state), getattr(depth, state)) for state in ("visible", "in_flight", "delayed"))),
        _gauge(
            "loginpipe_in_flight_limit_reached",
            "1 if messages wait that cannot be received, because as many are in flight as SQS allows.",
            {queue: float(depth.at_in_flight_limit)},
        ),
        _gauge(
            "loginpipe_dead_letters",
            "Messages on the dead-letter queue, without those known to be from other queues.",
            {queue: dead_letters.ours if dead_letters else None},
        ),
        _gauge(
            "loginpipe_dead_letters_of_others",
            "Messages from other queues on a dead-letter queue that they share.",
            {queue: owners.others if owners else None},
        ),
    ]


def table_metrics(totals: Totals, vault: VaultTotals) -> list[Metric]:
    """Return the metrics of the tables."""
    queues = totals.queues
    delay = HistogramMetricFamily(
        "loginpipe_delay_seconds", "Time from a login's SentTimestamp to its row in user_logins.", labels=["queue"]
    )
    for name, queue in queues.items():
        bounds = map(floatToGoString, (*DELAY_BOUNDS, inf))
        delay.add_metric([name], list(zip(bounds, accumulate(queue.delays), strict=True)), queue.delay_seconds)
    violations = CounterMetricFamily(
        "loginpipe_violations",
        "Violations in rejected messages; a message can have several.",
        labels=["reason", "field"],
    )
    return [
        _counter(
            "loginpipe_batches",
            "Batches with a recorded outcome.",
            {name: queue.counts["batches"] for name, queue in queues.items()},
        ),
        delay,
        _filled(violations, totals.rejects.items()),
        *(
            _counter(
                f"loginpipe_messages_{kind}", meaning, {name: queue.counts[kind] for name, queue in queues.items()}
            )
            for kind, meaning in _MESSAGES.items()
        ),
        _gauge(
            "loginpipe_last_batch_finished_timestamp_seconds",
            "Time at which the messages of the newest batch had been deleted.",
            {name: queue.last_finished for name, queue in queues.items()},
        ),
        _gauge(
            "loginpipe_newest_stored_timestamp_seconds",
            "Newest recorded SentTimestamp.",
            {name: queue.newest_stored for name, queue in queues.items()},
        ),
        GaugeMetricFamily(
            "loginpipe_vault_values", "Sealed values, as Postgres estimates them.", value=vault.sealed_values
        ),
        GaugeMetricFamily(
            "loginpipe_token_key_version",
            "Highest token key version in use; 0 before the first.",
            value=max(vault.key_versions, default=0),
        ),
        _gauge(
            "loginpipe_token_key_first_used_timestamp_seconds",
            "Time at which a token key version was first used.",
            {str(version): when for version, when in vault.key_versions.items()},
            label="version",
        ),
    ]


def lag_metric(queue: str, depth: Depth, of_queue: QueueTotals | None, now: float) -> Metric:
    """Return how far the table lags behind the queue at `now` (Unix time in seconds).

    There is no sample if messages wait and none was ever stored. `of_queue` is None if there are no batches.
    """
    newest = of_queue.newest_stored if of_queue else None
    lag = None if newest is None else max(now - newest, 0)
    return _gauge(
        "loginpipe_lag_seconds",
        "Time since the newest recorded SentTimestamp while the queue holds messages; 0 while it holds none. "
        "After a quiet period it begins at the length of that period.",
        {queue: lag if depth.total else 0},
    )


_RETRY_SECONDS = 3
# Prometheus gives up a scrape after 10 s by default.
_ANSWER_SECONDS = 8

# Batches recorded longer ago no longer change, because deletes take at most ten minutes. Their totals are read once per
# process and kept, because reading a month of batches takes seconds.
_SETTLED = timedelta(hours=1)


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
            return asked.result(max(deadline - time.monotonic(), 0))
        except TimeoutError:
            return None
        finally:
            if asked.done():
                self._asked = None

    def _answer(self, asked: Future[T | None]) -> None:
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
        up = {"queue": float(queue is not None), "database": float(tables is not None)}
        yield _gauge("loginpipe_source_up", "1 if a source of these metrics answered, else 0.", up, label="source")
        if queue is not None:
            yield from queue_metrics(*queue)
        if tables is not None:
            yield from table_metrics(*tables)
        if queue is not None and tables is not None:
            name, depth, _ = queue
            yield lag_metric(name, depth, tables[0].queues.get(name), time.time())

    def _read_queue(self) -> tuple[str, Depth, DeadLetterDepth | None]:
        if self._queue is None:
            self._queue = open_queue(self._settings.queue, self._settings, connections=1)
        return self._queue.name, read_depth(self._queue), read_dead_letters(self._queue)

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


INTERVAL_SECONDS = 60

_Labels = tuple[tuple[str, str], ...]


class EmfRecords:
    """Makes records from a collector's metrics: gauges as they are, counters as the increase since the previous call.

    Histograms are left out because CloudWatch has none.
    """

    def __init__(self, queue: str) -> None:
        """Start without known totals. `queue` becomes the dimension of metrics without labels."""
        self._queue = queue
        self._families: set[str] = set()
        self._totals: dict[tuple[str, _Labels], float] = {}

    def records(self, families: Iterable[Metric], now: float) -> Iterator[dict[str, Any]]:
        """Yield one record per set of labels in the current metrics. `now` is Unix time in seconds."""
        by_labels: dict[_Labels, dict[str, float]] = {}
        for family in families:
            for sample in family.samples if family.type in {"gauge", "counter"} else ():
                labels = tuple(sorted(sample.labels.items())) or (("queue", self._queue),)
                # Postgres returns sums as Decimal, which JSON cannot encode.
                value = float(sample.value)
                if family.type == "counter":
                    # Counts from before this process began may be old, so they do not count; a counter that appears
                    # later is new.
                    key, total = (sample.name, labels), value
                    value -= self._totals.get(key, 0 if family.name in self._families else total)
                    self._totals[key] = total
                by_labels.setdefault(labels, {})[sample.name] = value
            self._families.add(family.name)
        for labels, values in by_labels.items():
            metrics = [{"Name": name, "Unit": "Seconds" if "_seconds" in name else "Count"} for name in values]
            directive = {"Namespace": "loginpipe", "Dimensions": [[name for name, _ in labels]], "Metrics": metrics}
            yield {
                "_aws": {"Timestamp": int(now * 1000), "CloudWatchMetrics": [directive]},
                **dict(labels),
                **values,
            }
