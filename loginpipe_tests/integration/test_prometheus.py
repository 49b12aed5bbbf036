"""The alert rules in a real Prometheus that scrapes the real command: each fires on its cause and clears after it."""

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import psycopg2
import pytest
import yaml  # type: ignore[import-untyped]

from loginpipe.logins.delays import DELAY_BOUNDS
from loginpipe.sqs.dead_letters import redrive_policy
from loginpipe_tests.conftest import Pipeline
from loginpipe_tests.ports import free_port
from loginpipe_tests.wire import Answer, Call, Forward, Wire, at_the_wire, eventually, login, success

FOLDER = Path(__file__).parents[2] / "deploy" / "prometheus"
RULES = yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"][0]["rules"]
BUCKETS = len(DELAY_BOUNDS) + 1
WINDOW_SECONDS = 6

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="Prometheus is not installed: Debian's package prometheus brings it"
)


def test_promtool_finds_the_files_right_and_the_unit_tests_of_the_rules_pass() -> None:
    for command in ("check config prometheus.yml", "check rules rules.yml", "test rules rules_test.yml"):
        done = subprocess.run(
            ["promtool", *command.split()], cwd=FOLDER, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_understands_what_the_dashboard_asks(tmp_path: Path) -> None:
    dashboard = json.loads((FOLDER.parent / "grafana" / "dashboards" / "loginpipe.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    variables = {"$queue": ".*", "$__rate_interval": "1m"}
    for name, value in variables.items():
        asked = [expression.replace(name, value) for expression in asked]
    rules = [{"record": f"asked:{number}", "expr": expression} for number, expression in enumerate(asked)]
    (tmp_path / "asked.yml").write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", "asked.yml"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def process(*command: str) -> Iterator[None]:
    """Run a process during the block. If the test fails, pytest shows its stderr."""
    running = subprocess.Popen(command, stderr=sys.stderr)
    try:
        yield
    finally:
        running.send_signal(signal.SIGTERM)
        try:
            running.wait(10)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


class Prometheus:
    """The API of a Prometheus on this machine."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1/"

    def ask(self, what: str, **parameters: str) -> Any:
        with urlopen(f"{self._url}{what}?{urlencode(parameters)}", timeout=10) as answer:
            return json.load(answer)["data"]

    def answers(self) -> bool:
        with suppress(URLError, ConnectionError):
            self.ask("status/runtimeinfo")
            return True
        return False

    def value(self, metric: str) -> float | None:
        result = self.ask("query", query=f"sum({metric})")["result"]
        return float(result[0]["value"][1]) if result else None

    def firing(self) -> set[str]:
        return {alert["labels"]["alertname"] for alert in self.ask("alerts")["alerts"] if alert["state"] == "firing"}


@contextmanager
def prometheus(folder: Path, metrics_port: int) -> Iterator[Prometheus]:
    """Run Prometheus with the deployed files, but without waits of minutes, which promtool tests."""
    rules = re.sub(r"\bfor: \d+m\b", "for: 0s", (FOLDER / "rules.yml").read_text())
    rules = re.sub(r"\[\d+m\]", f"[{WINDOW_SECONDS}s]", rules)
    (folder / "rules.yml").write_text(rules)
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["global"] |= {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{metrics_port}"]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    with process(
        "prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
    ):  # fmt: skip
        found = Prometheus(port)
        eventually(found.answers, "Prometheus answers", 60)
        yield found


class Counts:
    """Inserts batches as runs record them."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self.received = 0

    def batch(self, *, bad: bool) -> None:
        """Insert a batch of ten messages: a good one from now, or a bad one from an hour ago with every failure."""
        began = datetime.now(UTC) - timedelta(hours=1 if bad else 0)
        accepted, failed = (5, 3) if bad else (10, 0)
        delays = [0] * BUCKETS
        delays[-1 if bad else 0] = accepted
        self._pipeline.execute(
            """
            INSERT INTO loginpipe.batches (
                batch_id, queue, started_at, recorded_at, finished_at, received, accepted, rejected, inserted, deleted,
                delete_failures, leases_lost, oldest_sent_at, newest_sent_at, delay_counts
            )
            VALUES (gen_random_uuid(), %s, %s, now(), %s, 10, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            """,
            self._pipeline.queue.name, began, began, accepted, 10 - accepted, accepted, 0 if bad else 10, failed,
            failed, began, began, delays,
        )  # fmt: skip
        self.received += 10


def at_in_flight_limit(pipeline: Pipeline) -> Callable[[Call, Forward], Answer]:
    """Return a tamper that reports as many messages in flight as SQS allows. No endpoint here counts that far."""

    def tamper(call: Call, forward: Forward) -> Answer:
        answer = forward(call)
        attributes = answer.content.get("Attributes", {})
        if call.request["QueueUrl"].endswith(pipeline.queue.name) and "ApproximateNumberOfMessages" in attributes:
            return success({"Attributes": attributes | {"ApproximateNumberOfMessagesNotVisible": "120000"}})
        return answer

    return tamper


def as_it_is(call: Call, forward: Forward) -> Answer:
    return forward(call)


def rename(pipeline: Pipeline, table: str, name: str) -> None:
    with closing(psycopg2.connect(pipeline.database_url)) as connection, connection:
        connection.cursor().execute(f"ALTER TABLE loginpipe.{table} RENAME TO {name}")


@pytest.fixture
def wire(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    with at_the_wire(pipeline, monkeypatch) as wire:
        yield wire


def test_every_rule_fires_on_its_cause_and_clears_when_that_is_gone(
    pipeline: Pipeline, wire: Wire, tmp_path: Path
) -> None:
    queue = pipeline.queue
    policy = redrive_policy(queue)
    assert policy is not None
    dead_letters = policy.dead_letters
    counts = Counts(pipeline)
    port = free_port()
    metrics = [str(Path(sys.executable).parent / "loginpipe"), "metrics", "--port", str(port)]
    with prometheus(tmp_path, port) as found:

        def booked_is_scraped() -> bool:
            return found.value("loginpipe_messages_received_total") == counts.received

        with process(*metrics):
            counts.batch(bad=False)
            eventually(lambda: booked_is_scraped() and not found.firing(), "nothing fires in health", 60)

            wire.on("GetQueueAttributes", at_in_flight_limit(pipeline))
            pipeline.send([login()] * 3)
            queue.client.send_message(QueueUrl=dead_letters.url, MessageBody=login())
            with closing(psycopg2.connect(pipeline.database_url)) as connection, connection:
                connection.cursor().execute("UPDATE loginpipe.batches SET finished_at = finished_at - '1 h'::interval")
            fired: set[str] = set()
            away = {"LoginpipeSourceDown", "LoginpipeMetricsAbsent"}

            def all_fired() -> bool:
                # One bad batch after the other, because an increase is visible only for a short time, and a busy
                # machine is slow.
                if booked_is_scraped():
                    counts.batch(bad=True)
                fired.update(found.firing())
                return fired >= {rule["alert"] for rule in RULES} - away

            eventually(all_fired, "all rules on batches and queue fire", 60)

            wire.on("GetQueueAttributes", as_it_is)
            for url in (queue.url, dead_letters.url):
                queue.client.purge_queue(QueueUrl=url)
            counts.batch(bad=False)
            eventually(lambda: not found.firing(), "they clear", 60)

            rename(pipeline, "batches", "away")
            eventually(lambda: found.firing() == {"LoginpipeSourceDown"}, "a source that is gone is noticed", 60)
        eventually(lambda: found.firing() == {"LoginpipeMetricsAbsent"}, "metrics that are gone are noticed", 60)
        rename(pipeline, "away", "batches")
        with process(*metrics):
            eventually(lambda: booked_is_scraped() and not found.firing(), "they clear", 60)
