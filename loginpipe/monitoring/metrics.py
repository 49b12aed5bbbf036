"""Collect the pipeline's metrics from queue and tables, for Prometheus and CloudWatch. docs/metrics.md lists them."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
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

_MESSAGES: dict[str, str] = {
    "received": "Messages received from the queue, each counted once per run.",
    "inserted": "Rows added to user_logins.",
    "duplicates": "Messages skipped because their outcome was already recorded.",
    "rejected": "Messages rejected: invalid, or from a user who was erased.",
    "deleted": "Messages deleted from the queue, confirmed by SQS.",
    "delete_failures": "Messages recorded but not deleted: they are delivered again and change nothing.",
    "leases_lost": "Messages whose visibility timeout expired while a run processed them.",
}


def queue_metrics(queue: str, depth: Depth, dead_letters: DeadLetterDepth | None) -> list[Metric]:
    """Return the metrics of a queue's depth and of its dead-letter queue, if it has one."""
    messages = GaugeMetricFamily(
        "loginpipe_queue_messages", "Approximate number of messages on the queue.", labels=["queue", "state"]
    )
    for state in ("visible", "in_flight", "delayed"):
        messages.add_metric([queue, state], getattr(depth, state))
    at_limit = GaugeMetricFamily(
        "loginpipe_in_flight_limit_reached",
        "1 if messages wait that cannot be received, because as many are in flight as SQS allows.",
        labels=["queue"],
    )
    at_limit.add_metric([queue], float(depth.at_in_flight_limit))
    dead = GaugeMetricFamily(
        "loginpipe_dead_letters",
        "Messages on the dead-letter queue, without those known to be from other queues.",
        labels=["queue"],
    )
    others = GaugeMetricFamily(
        "loginpipe_dead_letters_of_others",
        "Messages from other queues on a dead-letter queue that they share.",
        labels=["queue"],
    )
    if dead_letters is not None:
        dead.add_metric([queue], dead_letters.ours)
        if dead_letters.owners is not None:
            others.add_metric([queue], dead_letters.owners.others)
    return [messages, at_limit, dead, others]


def table_metrics(totals: Totals, vault: VaultTotals) -> list[Metric]:
    """Return the metrics of the tables."""
    batches = CounterMetricFamily("loginpipe_batches", "Batches with a recorded outcome.", labels=["queue"])
    delay = HistogramMetricFamily(
        "loginpipe_delay_seconds", "Time from a login's SentTimestamp to its row in user_logins.", labels=["queue"]
    )
    for name, queue in totals.queues.items():
        batches.add_metric([name], queue.counts["batches"])
        bounds = map(floatToGoString, (*DELAY_BOUNDS, inf))
        delay.add_metric([name], list(zip(bounds, accumulate(queue.delays), strict=True)), queue.delay_seconds)
    violations = CounterMetricFamily(
        "loginpipe_violations",
        "Violations in rejected messages; a message can have several.",
        labels=["reason", "field"],
    )
    for labels, number in totals.rejects.items():
        violations.add_metric(labels, number)
    return [batches, delay, violations, *_messages(totals), *_times(totals), *_vault_metrics(vault)]


def lag_metric(queue: str, depth: Depth, of_queue: QueueTotals | None, now: float) -> Metric:
    """Return how far the table lags behind the queue at `now` (Unix time in seconds).

    There is no sample if messages wait and none was ever stored. `of_queue` is None if there are no batches.
    """
    lag = GaugeMetricFamily(
        "loginpipe_lag_seconds",
        "Time since the newest recorded SentTimestamp while the queue holds messages; 0 while it holds none. "
        "After a quiet period it begins at the length of that period.",
        labels=["queue"],
    )
    if depth.total == 0:
        lag.add_metric([queue], 0)
    elif of_queue is not None and of_queue.newest_stored is not None:
        lag.add_metric([queue], max(now - of_queue.newest_stored, 0))
    return lag


def _messages(totals: Totals) -> list[Metric]:
    families: list[Metric] = []
    for name, meaning in _MESSAGES.items():
        family = CounterMetricFamily(f"loginpipe_messages_{name}", meaning, labels=["queue"])
        for queue, of_queue in totals.queues.items():
            family.add_metric([queue], of_queue.counts[name])
        families.append(family)
    return families


def _times(totals: Totals) -> list[Metric]:
    finished = GaugeMetricFamily(
        "loginpipe_last_batch_finished_timestamp_seconds",
        "Time at which the messages of the newest batch had been deleted.",
        labels=["queue"],
    )
    stored = GaugeMetricFamily(
        "loginpipe_newest_stored_timestamp_seconds",
        "Newest recorded SentTimestamp.",
        labels=["queue"],
    )
    for queue, of_queue in totals.queues.items():
        if of_queue.last_finished is not None:
            finished.add_metric([queue], of_queue.last_finished)
        if of_queue.newest_stored is not None:
            stored.add_metric([queue], of_queue.newest_stored)
    return [finished, stored]


def _vault_metrics(vault: VaultTotals) -> list[Metric]:
    first_used = GaugeMetricFamily(
        "loginpipe_token_key_first_used_timestamp_seconds",
        "Time at which a token key version was first used.",
        labels=["version"],
    )
    for version, when in vault.key_versions.items():
        first_used.add_metric([str(version)], when)
    return [
        GaugeMetricFamily(
            "loginpipe_vault_values", "Sealed values, as Postgres estimates them.", value=vault.sealed_values
        ),
        GaugeMetricFamily(
            "loginpipe_token_key_version",
            "Highest token key version in use; 0 before the first.",
            value=max(vault.key_versions, default=0),
        ),
        first_used,
    ]


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


NAMESPACE = "loginpipe"
INTERVAL_SECONDS = 60

_Key = tuple[str, tuple[tuple[str, str], ...]]


class EmfRecords:
    """Makes records from a collector's metrics: gauges as they are, counters as the increase since the previous call.

    Histograms are left out because CloudWatch has none.
    """

    def __init__(self, queue: str) -> None:
        """Start without known totals. `queue` becomes the dimension of metrics without labels."""
        self._queue = queue
        self._families: set[str] = set()
        self._totals: dict[_Key, float] = {}

    def records(self, families: Iterable[Metric], now: float) -> Iterator[dict[str, Any]]:
        """Yield one record per set of labels in the current metrics. `now` is Unix time in seconds."""
        by_labels: dict[tuple[tuple[str, str], ...], dict[str, float]] = {}
        for family in families:
            for sample in family.samples if family.type in {"gauge", "counter"} else ():
                labels = tuple(sorted(sample.labels.items())) or (("queue", self._queue),)
                # Postgres returns sums as Decimal, which JSON cannot encode.
                value = float(sample.value)
                if family.type == "counter":
                    value = self._increase(family.name, (sample.name, labels), value)
                by_labels.setdefault(labels, {})[sample.name] = value
            self._families.add(family.name)
        for labels, values in by_labels.items():
            metrics = [{"Name": name, "Unit": "Seconds" if "_seconds" in name else "Count"} for name in values]
            yield {
                "_aws": {
                    "Timestamp": int(now * 1000),
                    "CloudWatchMetrics": [
                        {"Namespace": NAMESPACE, "Dimensions": [[name for name, _ in labels]], "Metrics": metrics}
                    ],
                },
                **dict(labels),
                **values,
            }

    def _increase(self, family: str, key: _Key, total: float) -> float:
        # Counts from before this process began may be old, so they do not count; a counter that appears later is new.
        before = self._totals.get(key, 0 if family in self._families else total)
        self._totals[key] = total
        return total - before
