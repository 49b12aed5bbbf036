"""The metrics as Prometheus gets them."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import psycopg2
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from loginpipe.ops.metrics import registry
from loginpipe.settings import load_settings
from loginpipe_tests.conftest import Pipeline
from loginpipe_tests.wire import at_the_wire, depth, eventually, login, take

Samples = dict[tuple[str, ...], float]


def samples(text: str) -> Samples:
    """Values by name and the values of the labels, these in the order of the labels' names."""
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
    assert found["in_flight_stall", queue] == 0
    assert found["runs", queue, "finished"] == 2
    assert found["runs", queue, "unfinished"] == 0
    of_messages = {name[0].split("_")[1]: value for name, value in found.items() if name[0].startswith("messages_")}
    assert of_messages == {
        "received": 5, "inserted": 3, "duplicates": 0, "rejected": 2, "deleted": 5, "delete": 0, "leases": 0,
    }  # fmt: skip
    assert found["reject_faults_total", "ip", "invalid_address"] == 1
    assert found["reject_faults_total", "body", "not_json"] == 1
    assert found["token_key_version",] == 1
    ((stored,),) = pipeline.rows("SELECT extract(epoch FROM max(newest_sent_at)) FROM loginpipe.ingest_runs")
    assert found["newest_stored_timestamp_seconds", queue] == pytest.approx(float(stored))


def test_a_stall_is_a_metric(pipeline: Pipeline, metrics: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    with at_the_wire(pipeline, monkeypatch) as wire:
        wire.on("GetQueueAttributes", depth(visible=37, in_flight=120_000))
        assert scraped(metrics)["in_flight_stall", pipeline.queue.name] == 1


def test_what_cannot_be_asked_is_named_and_the_rest_is_told(
    pipeline: Pipeline, metrics: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg2.connect(pipeline.database_url) as connection:
        connection.cursor().execute("ALTER TABLE loginpipe.ingest_runs RENAME TO away")
    connection.close()
    found = scraped(metrics)
    assert (found["source_up", "queue"], found["source_up", "database"]) == (1, 0)
    assert ("queue_messages", pipeline.queue.name, "visible") in found
    assert not [name for name in found if name[0].startswith(("runs", "messages_"))]

    with psycopg2.connect(pipeline.database_url) as connection:
        connection.cursor().execute("ALTER TABLE loginpipe.away RENAME TO ingest_runs")
    connection.close()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    elsewhere = registry(load_settings(), pipeline.database_url)
    found = scraped(elsewhere)
    assert (found["source_up", "queue"], found["source_up", "database"]) == (0, 1)


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def served(pipeline: Pipeline, port: int, tmp_path: Path) -> Iterator[str]:
    command = str(Path(sys.executable).parent / "loginpipe")
    process = subprocess.Popen([command, "metrics", "--port", str(port)], stderr=subprocess.PIPE, text=True)
    url = f"http://127.0.0.1:{port}/metrics"
    try:
        assert process.stderr is not None
        assert url in process.stderr.readline()
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_the_command_serves_them_until_it_is_interrupted(pipeline: Pipeline, served: str) -> None:
    pipeline.send([login()])

    def seen() -> bool:
        with urlopen(served, timeout=10) as answer:
            return samples(answer.read().decode())["queue_messages", pipeline.queue.name, "visible"] == 1

    eventually(seen, "the message is counted")


def test_a_port_that_is_taken_is_one_line(pipeline: Pipeline, port: int) -> None:
    with socket.create_server(("127.0.0.1", port)):
        done = subprocess.run(
            [str(Path(sys.executable).parent / "loginpipe"), "metrics", "--port", str(port)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == f"error: cannot listen on 127.0.0.1:{port} (Address already in use): choose another --port\n"
