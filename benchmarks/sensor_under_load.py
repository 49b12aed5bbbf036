"""How far behind the table is while messages keep coming, with the sensor alone to start runs: `make bench-sensor`.

`loginpipe dev` as a person runs it, its daemon and its runs as processes of their own, on a queue of an endpoint that
is never the bottleneck. Delays are those that the runs themselves record: from SentTimestamp to the moment of storing.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.progress import Progress

from loginpipe.local.prepare import create_login_queue
from loginpipe.logins.delays import delay_labels, quantile
from loginpipe_tests.e2e.project import Project, eventually, running_project, running_ui
from loginpipe_tests.sqs_endpoint import Endpoint, running_endpoint

QUEUE = "login-queue"
_REPORT = Path(__file__).parent / "report" / "sensor.json"
_BOOKS = """
    SELECT
        count(DISTINCT run_id), count(*), sum(received), sum(inserted), sum(rejected), sum(duplicates), sum(leases_lost)
    FROM loginpipe.batches WHERE finished_at IS NOT NULL
"""
_DELAYS = """
    SELECT sum(count) FROM loginpipe.batches, unnest(delay_counts) WITH ORDINALITY AS bucket (count, place)
    GROUP BY place ORDER BY place
"""


def main() -> None:
    """Send, wait until all is stored, write and print what the books say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=50_000)
    parser.add_argument("--seconds", type=int, default=300, help="over which they arrive, evenly")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="loginpipe-bench-") as folder, running_endpoint(no_books=True) as endpoint:
        # A line of the user's own: the stack's endpoint, which slows down with its backlog, is left out of it.
        (Path(folder) / ".env").write_text(f"AWS_ENDPOINT_URL={endpoint.url}\n")
        create_login_queue(endpoint.client, QUEUE)
        with running_project(Path(folder)) as project, running_ui(project):
            found = measured(project, endpoint, options.messages, options.seconds)
    _REPORT.write_text(json.dumps(found, indent=1) + "\n")
    print_figures(found, as_json=options.json)


def measured(project: Project, endpoint: Endpoint, messages: int, seconds: int) -> dict[str, Any]:
    """Let messages arrive evenly, and return what came of them."""
    began, sent, deepest = time.monotonic(), 0, 0
    with Progress(transient=True, console=Console(stderr=True)) as bar:
        task = bar.add_task("messages arrive", total=messages)
        while sent < messages:
            due = min(messages, int((time.monotonic() - began) / seconds * messages) + 1)
            endpoint.send_samples(QUEUE, due - sent, seed=due)
            bar.update(task, completed=due)
            sent = due
            deepest = max(deepest, endpoint.stats()["queues"][QUEUE]["visible"])
            time.sleep(0.5)
    eventually(lambda: project.rows(_BOOKS)[0][2] == messages, seconds=300, what="all messages are in the books")
    runs, batches, received, inserted, rejected, duplicates, leases_lost = map(int, project.rows(_BOOKS)[0])
    counts = [int(count) for (count,) in project.rows(_DELAYS)]
    return {
        "messages": messages,
        "arrived_over_seconds": seconds,
        "stored_after_seconds": round(time.monotonic() - began, 1),
        "most_waiting": deepest,
        "runs": runs,
        "batches": batches,
        "received": received,
        "inserted": inserted,
        "rejected": rejected,
        "duplicates": duplicates,
        "leases_lost": leases_lost,
        "p50_at_most_seconds": quantile(counts, 0.5),
        "p95_at_most_seconds": quantile(counts, 0.95),
        "p99_at_most_seconds": quantile(counts, 0.99),
        "delays": dict(zip(delay_labels(), counts, strict=True)),
    }


def print_figures(figures: dict[str, Any], *, as_json: bool) -> None:
    """Print them, one a line, or as JSON."""
    if as_json:
        sys.stdout.write(json.dumps(figures) + "\n")
        return
    for name, value in figures.items():
        sys.stdout.write(f"{name.replace('_', ' ')}: {value}\n")


if __name__ == "__main__":
    main()
