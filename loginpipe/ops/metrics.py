"""Metrics for Prometheus, read anew at each scrape from the durable tables and the queue: no restart loses any."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from loginpipe.errors import LoginpipeError
from loginpipe.postgres.metrics import QueueTotals, Totals, read_totals
from loginpipe.postgres.session import Session
from loginpipe.settings import Settings
from loginpipe.sqs.client import Queue, open_queue
from loginpipe.sqs.dead_letters import redrive_policy
from loginpipe.sqs.depth import Depth, read_depth

_PATIENCE_SECONDS: Final = 3
"""A scrape that waits longer is given up by Prometheus, whose default is 10 s."""

_COUNTERS: Final[dict[str, str]] = {
    "received": "Messages taken from the queue, each once a run.",
    "inserted": "Rows added to user_logins.",
    "duplicates": "Messages whose outcome was recorded before.",
    "rejected": "Messages set aside as bad.",
    "deleted": "Messages deleted from the queue, and confirmed.",
    "delete_failures": "Messages recorded and not deleted: they come again and change nothing.",
    "leases_lost": "Messages whose visibility timeout ended while a run was at work on them.",
}
_TIMES: Final[dict[str, tuple[str, str]]] = {
    "last_finished": ("last_run_finished_timestamp_seconds", "When the newest run that succeeded ended."),
    "newest_stored": ("newest_stored_timestamp_seconds", "Newest SentTimestamp that a run has worked off."),
}


class PipelineCollector(Collector):
    """Asks queue and database at each scrape; who does not answer is left out, and named in ``loginpipe_source_up``."""

    def __init__(self, settings: Settings, database_url: str) -> None:
        self._settings = settings
        self._database_url = database_url
        self._queue: Queue | None = None
        self._session: Session | None = None

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of each source."""
        up = GaugeMetricFamily("loginpipe_source_up", "Whether a source of these metrics answered.", labels=["source"])
        sources: dict[str, Callable[[], list[Metric]]] = {"queue": self._of_queue, "database": self._of_database}
        for source, read in sources.items():
            metrics: list[Metric] | None = None
            with suppress(LoginpipeError):
                metrics = read()
            up.add_metric([source], float(metrics is not None))
            yield from metrics or []
        yield up

    def _of_queue(self) -> list[Metric]:
        if self._queue is None:
            self._queue = open_queue(self._settings.queue, connections=1)
        depth = read_depth(self._queue)
        policy = redrive_policy(self._queue)
        return queue_metrics(self._queue.name, depth, read_depth(policy.dead_letters) if policy else None)

    def _of_database(self) -> list[Metric]:
        if self._session is None:
            self._session = Session(self._database_url, patience_seconds=_PATIENCE_SECONDS)
        return table_metrics(self._session.run(read_totals))


def queue_metrics(queue: str, depth: Depth, dead_letters: Depth | None) -> list[Metric]:
    """Return what a queue's depth says.

    Args:
        queue: its name.
        depth: its depth.
        dead_letters: the depth of its dead-letter queue, or None where it has none.
    """
    messages = GaugeMetricFamily(
        "loginpipe_queue_messages", "Messages on the queue, approximately.", labels=["queue", "state"]
    )
    for state in ("visible", "in_flight", "delayed"):
        messages.add_metric([queue, state], getattr(depth, state))
    stall = GaugeMetricFamily(
        "loginpipe_in_flight_stall",
        "1 where messages wait that nobody can receive, since as many are in flight as SQS allows.",
        labels=["queue"],
    )
    stall.add_metric([queue], float(depth.stalled))
    dead = GaugeMetricFamily("loginpipe_dead_letters", "Messages on the dead-letter queue.", labels=["queue"])
    if dead_letters is not None:
        dead.add_metric([queue], dead_letters.total)
    return [messages, stall, dead]


def table_metrics(totals: Totals) -> list[Metric]:
    """Return what the tables say."""
    runs = GaugeMetricFamily(
        "loginpipe_runs",
        "Runs so far: finished; unfinished, that is at work, failed or died.",
        labels=["queue", "state"],
    )
    for queue in totals.queues:
        runs.add_metric([queue.queue, "finished"], queue.finished)
        runs.add_metric([queue.queue, "unfinished"], queue.unfinished)
    rejects = CounterMetricFamily(
        "loginpipe_reject_faults", "Faults of messages set aside.", labels=["reason", "field"]
    )
    for (reason, field), number in totals.rejects.items():
        rejects.add_metric([reason, field], number)
    return [
        runs,
        *(_counter(name, meaning, totals.queues) for name, meaning in _COUNTERS.items()),
        *(_time(of, name, meaning, totals.queues) for of, (name, meaning) in _TIMES.items()),
        rejects,
        GaugeMetricFamily("loginpipe_vault_values", "Sealed values, about.", value=totals.sealed_values),
        GaugeMetricFamily(
            "loginpipe_token_key_version", "Highest version of the token key in use.", value=totals.token_key_version
        ),
    ]


def _counter(name: str, meaning: str, queues: tuple[QueueTotals, ...]) -> Metric:
    family = CounterMetricFamily(f"loginpipe_messages_{name}", meaning, labels=["queue"])
    for queue in queues:
        family.add_metric([queue.queue], getattr(queue, name))
    return family


def _time(of: str, name: str, meaning: str, queues: tuple[QueueTotals, ...]) -> Metric:
    family = GaugeMetricFamily(f"loginpipe_{name}", meaning, labels=["queue"])
    for queue in queues:
        if getattr(queue, of) is not None:
            family.add_metric([queue.queue], float(getattr(queue, of)))
    return family


def registry(settings: Settings, database_url: str) -> CollectorRegistry:
    """Return a registry with the pipeline's metrics alone."""
    registry = CollectorRegistry()
    registry.register(PipelineCollector(settings, database_url))
    return registry
