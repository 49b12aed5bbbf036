"""Convert metrics to CloudWatch's embedded metric format: JSON records for a log, one per set of labels."""

from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client.core import Metric

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
