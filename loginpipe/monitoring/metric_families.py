"""Build the pipeline's metrics from queue depth and tables. Pure. docs/metrics.md lists them."""

from itertools import accumulate
from math import inf

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

from loginpipe.logins.delays import DELAY_BOUNDS
from loginpipe.postgres.metrics import QueueTotals, Totals, VaultTotals
from loginpipe.sqs.dead_letters import DeadLetterDepth
from loginpipe.sqs.depth import Depth

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
