"""The metrics as CloudWatch takes them from a log: JSON records in its embedded metric format, a set of labels each."""

from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client.core import Metric

NAMESPACE = "loginpipe"
INTERVAL_SECONDS = 60

_Key = tuple[str, tuple[tuple[str, str], ...]]


class EmfRecords:
    """Makes records of what a collector yields: gauges as they are, counters by their increase since the call before.

    Histograms are left out: CloudWatch has none.
    """

    def __init__(self, queue: str) -> None:
        """Remember nothing yet.

        Args:
            queue: the dimension of metrics that have no label.
        """
        self._queue = queue
        self._families: set[str] = set()
        self._totals: dict[_Key, float] = {}

    def records(self, families: Iterable[Metric], now: float) -> Iterator[dict[str, Any]]:
        """Yield a record for each set of labels.

        Args:
            families: the metrics as they are now.
            now: Unix time in seconds.
        """
        by_labels: dict[tuple[tuple[str, str], ...], dict[str, float]] = {}
        for family in families:
            for sample in family.samples if family.type in {"gauge", "counter"} else ():
                labels = tuple(sorted(sample.labels.items())) or (("queue", self._queue),)
                # Sums come from Postgres as Decimal, which JSON does not know.
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
        # What was counted before this process began is not known to be new; a counter that appears later is.
        before = self._totals.get(key, 0 if family in self._families else total)
        self._totals[key] = total
        return total - before
