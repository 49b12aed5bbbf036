"""Memory stays bounded however large the messages are: measured on the whole chain, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loginpipe.sqs import receiver
from loginpipe.sqs.client import Queue
from loginpipe.sqs.leases import LeaseKeeper
from loginpipe.sqs.receiver import BODY_BYTES_MOST, RECEIVERS_FIRST, receive_batch
from loginpipe_tests.conftest import Pipeline
from loginpipe_tests.wire import login

MESSAGES = 200
BODY_BYTES = 1_048_000
"""Just below SQS's limit of 1 MiB."""

UNDER_WAY_BYTES = RECEIVERS_FIRST * 10 * 1_048_576
"""What the first receivers can have asked for before one of them knows how large the answers are."""

RUNS = """
import json, os, sys
import dagster as dg
from loginpipe.definitions import build_definitions
from loginpipe.defs.ingest.job import INGEST_JOB
from loginpipe.common.settings import load_settings
from loginpipe.sqs.client import open_queue
from loginpipe.sqs.depth import read_depth

def peak_mebibytes():
    # Of this process alone: what getrusage says includes the process that it was forked from.
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024

queue = open_queue(os.environ["LOGINPIPE_QUEUE"], load_settings(), connections=1)
job = build_definitions().resolve_job_def(INGEST_JOB)
quiet = {"loggers": {"console": {"config": {"log_level": "ERROR"}}}}
before, received = peak_mebibytes(), []
while read_depth(queue).total and len(received) < 20:
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(run_config=quiet, instance=instance, raise_on_error=False)
    assert result.success
    frame = [e for e in result.get_asset_materialization_events() if e.asset_key.to_user_string() == "raw_sqs_messages"]
    received.append(frame[0].materialization.metadata["dagster/row_count"].value)
print(json.dumps({"before": before, "peak": peak_mebibytes(), "received": received}))
"""


def run_until_drained(folder: Path, **environment: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", RUNS],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux' /proc")
def test_two_hundred_messages_of_a_mebibyte_good_and_bad_are_worked_off_in_bounded_memory(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    padding = "x" * (BODY_BYTES - len(login(user_id="user-000", padding="")))
    good = (login(user_id=f"user-{number:03}", padding=padding) for number in range(MESSAGES))
    pipeline.send(body if number % 2 else body.replace('"', "'", 1) for number, body in enumerate(good))
    result = run_until_drained(tmp_path)
    assert sum(result["received"]) == MESSAGES
    assert max(result["received"]) * BODY_BYTES < BODY_BYTES_MOST + UNDER_WAY_BYTES, "a bite is bounded"
    assert len(result["received"]) > 1, "and does not take them all"
    assert pipeline.rows("SELECT count(*) FROM user_logins") == [(MESSAGES // 2,)]
    assert pipeline.rows("SELECT count(*) FROM loginpipe.rejected_messages") == [(MESSAGES // 2,)]
    # 690 MiB when this was written, of which 150 are the libraries.
    assert result["peak"] < 1000


def test_a_bite_is_bounded_by_the_memory_that_bodies_take_not_by_their_characters(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One emoji in a body makes each of its characters four bytes wide."""
    monkeypatch.setattr(receiver, "BODY_BYTES_MOST", 150_000)
    for _ in range(3):
        entries = [{"Id": str(place), "MessageBody": "x" * 10_000 + "\U0001f600"} for place in range(10)]
        queue.client.send_message_batch(QueueUrl=queue.url, Entries=entries)  # type: ignore[arg-type]
    leases = LeaseKeeper(queue, visibility_seconds=60, calls_at_once=1)
    received = receive_batch(queue, leases, most=100, seconds=20, visibility_seconds=60, receivers=1)
    leases.close()
    assert len(received.messages) == 10
