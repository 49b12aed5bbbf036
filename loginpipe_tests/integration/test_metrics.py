"""The metrics as Prometheus receives them."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psycopg2
import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from loginpipe.common.settings import load_settings
from loginpipe.monitoring.metrics import EmfRecords, registry
from loginpipe.postgres.batches import roll_up
from loginpipe.postgres.connections import connect
from loginpipe_tests.commands import command_line
from loginpipe_tests.conftest import Pipeline
from loginpipe_tests.ports import free_port
from loginpipe_tests.wire import at_the_wire, depth, eventually, login, take

Samples = dict[tuple[str, ...], float]


def samples(text: str) -> Samples:
    """Return the values by name and label values, in the order of the label names."""
    return {
        (sample.name.removeprefix("loginpipe_"), *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scraped(metrics: CollectorRegistry) -> Samples:
    return samples(generate_latest(metrics).decode())


@pytest.fixture
def metrics(pipeline: Pipeline, settings_environment: dict[str, str]) -> CollectorRegistry:
    return registry(load_settings(), settings_environment["LOGINPIPE_DATABASE_URL"])


def test_the_totals_of_all_runs_are_told_and_the_queue_as_it_is_now(
    pipeline: Pipeline, metrics: CollectorRegistry
) -> None:
    queue = pipeline.queue.name
    pipeline.send([login(), login(), login(ip="nowhere"), "no JSON"])
    assert take(pipeline, 4).success
    pipeline.send([login()])
    assert take(pipeline, 1).success
    pipeline.send([login()] * 3)
    found = scraped(metrics)
    assert found["source_up", "queue"] == found["source_up", "database"] == 1
    assert found["queue_messages", queue, "visible"] == 3
    assert found["queue_messages", queue, "in_flight"] == 0
    assert found["dead_letters", queue] == 0
    assert found["in_flight_limit_reached", queue] == 0
    assert found["batches_total", queue] == 2
    of_messages = {name[0].split("_")[1]: value for name, value in found.items() if name[0].startswith("messages_")}
    assert of_messages == {
        "received": 5, "inserted": 3, "duplicates": 0, "rejected": 2, "deleted": 5, "delete": 0, "leases": 0,
    }  # fmt: skip
    assert found["violations_total", "ip", "invalid_address"] == 1
    assert found["violations_total", "body", "not_json"] == 1
    assert found["token_key_version",] == 1
    assert found["token_key_first_used_timestamp_seconds", "1"] == pytest.approx(time.time(), abs=60)
    ((stored,),) = pipeline.rows("SELECT extract(epoch FROM max(newest_sent_at)) FROM loginpipe.batches")
    assert found["newest_stored_timestamp_seconds", queue] == pytest.approx(float(stored))
    assert found["lag_seconds", queue] == pytest.approx(time.time() - float(stored), abs=5)
    ((delays, seconds),) = pipeline.rows(
        "SELECT array_agg(delay_counts ORDER BY started_at), sum(delay_seconds) FROM loginpipe.batches"
    )
    assert found["delay_seconds_bucket", "1.0", queue] == sum(of_run[0] for of_run in delays)
    assert found["delay_seconds_bucket", "+Inf", queue] == found["delay_seconds_count", queue] == 3
    assert found["delay_seconds_sum", queue] == pytest.approx(seconds)


def test_batches_of_long_ago_are_counted_once_and_so_are_those_that_are_sums_by_now(
    pipeline: Pipeline, metrics: CollectorRegistry
) -> None:
    def record(ago: str) -> None:
        pipeline.execute(
            "INSERT INTO loginpipe.batches "
            "(batch_id, queue, started_at, recorded_at, finished_at, received, inserted, delay_counts, delay_seconds) "
            "SELECT gen_random_uuid(), %s, began, began, began, 10, 10, "
            "'{1,2,0,0,0,0,0,0,0,0,0,0,3,4}', 20000 FROM (SELECT now() - %s::interval) AS batch (began)",
            pipeline.queue.name,
            ago,
        )

    queue = pipeline.queue.name
    for ago in ("1 year", "40 days", "8 days", "2 hours"):
        record(ago)
    with closing(connect(pipeline.database_url)) as connection:
        assert roll_up(connection, datetime.now(UTC).date()) == 2
    for more in (1, 2):
        record("2 minutes")
        found = scraped(metrics)
        assert found["batches_total", queue] == 4 + more
        assert found["messages_received_total", queue] == found["delay_seconds_count", queue] == 10 * (4 + more)
        assert found["delay_seconds_bucket", "1800.0", queue] == 3 * (4 + more)
        assert found["delay_seconds_bucket", "3600.0", queue] == 6 * (4 + more)
        assert found["delay_seconds_sum", queue] == 20_000 * (4 + more)
    assert found["lag_seconds", queue] == 0
    assert found["last_batch_finished_timestamp_seconds", queue] == pytest.approx(time.time() - 120, abs=60)


DEPLOY = Path(__file__).parents[2] / "deploy"


def named_in(expressions: Iterable[str]) -> set[str]:
    return set(re.findall(r"\bloginpipe_\w+", " ".join(expressions)))


def test_every_metric_that_rules_dashboard_and_cloudwatch_name_is_one_that_the_command_prints(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = command_line(monkeypatch, capsys)("metrics", "--once").out
    kinds = dict(re.findall(r"^# TYPE (loginpipe_\w+) (\w+)$", printed, re.MULTILINE))
    there = set(kinds)
    for name in (name for name, kind in kinds.items() if kind == "histogram"):
        there |= {f"{name}_{part}" for part in ("bucket", "sum", "count")}

    (group,) = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())["groups"]
    dashboard = json.loads((DEPLOY / "grafana" / "dashboards" / "loginpipe.json").read_text())
    shown = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    for expressions in ([rule["expr"] for rule in group["rules"]], shown):
        assert named_in(expressions)
        assert named_in(expressions) - there == set()
    documented = re.findall(
        r"^\| `(loginpipe_\w+)` \| (\w+) ", (DEPLOY.parent / "docs" / "metrics.md").read_text(), re.MULTILINE
    )
    assert dict(documented) == kinds
    assert there - named_in(shown) <= {"loginpipe_delay_seconds"}, "the dashboard shows everything there is"

    board = (DEPLOY / "aws" / "loginpipe_aws" / "observability.py").read_text()
    on_cloudwatch = set(re.findall(r'"(loginpipe_\w+)"', board))
    assert len(on_cloudwatch) > 3
    assert {kinds[name] for name in on_cloudwatch} <= {"gauge", "counter"}


def by_dimensions(records: Iterable[dict[str, Any]]) -> dict[tuple[str, ...], dict[str, Any]]:
    """Return dimension values → their record; check each for what CloudWatch would silently drop."""
    found = {}
    for record in records:
        (directive,) = record["_aws"]["CloudWatchMetrics"]
        (dimensions,) = directive["Dimensions"]
        values = tuple(record[name] for name in dimensions)
        assert all(isinstance(value, str) and value for value in values)
        assert all(isinstance(record[metric["Name"]], int | float) for metric in directive["Metrics"])
        assert {metric["Unit"] for metric in directive["Metrics"]} <= {"Count", "Seconds"}
        assert directive["Namespace"] == "loginpipe"
        assert isinstance(record["_aws"]["Timestamp"], int)
        found[values] = record
    return found


def test_cloudwatch_gets_gauges_as_they_are_and_the_increase_of_counters(
    pipeline: Pipeline, metrics: CollectorRegistry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    queue, emf = pipeline.queue.name, EmfRecords(pipeline.queue.name)
    pipeline.send([login()])
    assert take(pipeline, 1).success
    first = by_dimensions(emf.records(metrics.collect(), 1_000.5))
    # Earlier counts are not an increase of this minute.
    assert first[queue,]["loginpipe_messages_received_total"] == 0
    pipeline.send([login(), login(), login(ip="nowhere")])
    assert take(pipeline, 3).success
    second = by_dimensions(emf.records(metrics.collect(), 1_060.5))
    assert second[queue,]["_aws"]["Timestamp"] == 1_060_500
    assert second[queue,]["loginpipe_messages_inserted_total"] == 2
    assert second[queue,]["loginpipe_messages_rejected_total"] == 1
    assert second[queue, "visible"]["loginpipe_queue_messages"] == 0
    # A new counter starts at zero.
    assert second["ip", "invalid_address"]["loginpipe_violations_total"] == 1
    assert not [name for record in second.values() for name in record if "delay_seconds" in name]

    lines = command_line(monkeypatch, capsys)("metrics", "--emf", "--once").out.splitlines()
    printed = by_dimensions(map(json.loads, lines))
    assert printed.keys() == second.keys()
    assert printed[queue,].keys() == second[queue,].keys()


def test_a_source_that_hangs_does_not_hold_up_the_other(
    pipeline: Pipeline, metrics: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loginpipe.monitoring.metrics._ANSWER_SECONDS", 5)
    with psycopg2.connect(pipeline.database_url) as connection:
        connection.cursor().execute("LOCK TABLE loginpipe.batches")
        found = scraped(metrics)
        assert (found["source_up", "queue"], found["source_up", "database"]) == (1, 0)
    connection.close()
    eventually(lambda: scraped(metrics)["source_up", "database"] == 1, "the database answers again")


def test_a_limit_is_a_metric(pipeline: Pipeline, metrics: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    with at_the_wire(pipeline, monkeypatch) as wire:
        wire.on("GetQueueAttributes", depth(visible=37, in_flight=120_000))
        assert scraped(metrics)["in_flight_limit_reached", pipeline.queue.name] == 1


def test_what_cannot_be_asked_is_named_and_the_rest_is_told(
    pipeline: Pipeline, metrics: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg2.connect(pipeline.database_url) as connection:
        connection.cursor().execute("ALTER TABLE loginpipe.batches RENAME TO away")
    connection.close()
    found = scraped(metrics)
    assert (found["source_up", "queue"], found["source_up", "database"]) == (1, 0)
    assert ("queue_messages", pipeline.queue.name, "visible") in found
    assert not [name for name in found if name[0].startswith(("batches", "messages_"))]

    with psycopg2.connect(pipeline.database_url) as connection:
        connection.cursor().execute("ALTER TABLE loginpipe.away RENAME TO batches")
    connection.close()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("loginpipe.monitoring.metrics._ANSWER_SECONDS", 5)
    elsewhere = registry(load_settings(), pipeline.database_url)
    found = scraped(elsewhere)
    assert (found["source_up", "queue"], found["source_up", "database"]) == (0, 1)


@pytest.fixture
def served(pipeline: Pipeline, tmp_path: Path) -> Iterator[str]:
    command, port = str(Path(sys.executable).parent / "loginpipe"), free_port()
    process = subprocess.Popen([command, "metrics", "--port", str(port)], stderr=subprocess.PIPE, text=True)
    url = f"http://127.0.0.1:{port}/metrics"
    try:
        assert process.stderr is not None
        assert url in process.stderr.readline()
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_the_command_serves_them_until_it_is_interrupted(pipeline: Pipeline, served: str) -> None:
    pipeline.send([login()])

    def seen() -> bool:
        # Without a value, the queue has not answered in time.
        with urlopen(served, timeout=60) as answer:
            return samples(answer.read().decode()).get(("queue_messages", pipeline.queue.name, "visible")) == 1

    eventually(seen, "the message is counted", 60)


def test_a_port_that_is_taken_is_one_line(pipeline: Pipeline) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = subprocess.run(
            [str(Path(sys.executable).parent / "loginpipe"), "metrics", "--port", str(port)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == f"error: cannot listen on 127.0.0.1:{port} (Address already in use): choose another --port\n"
