"""Runs that are killed, terminated or interrupted at every point: nothing is lost, nothing is written twice."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loginpipe_tests.broken_run import POINTS, SIGNALS
from loginpipe_tests.conftest import Pipeline
from loginpipe_tests.wire import eventually

ROOT = Path(__file__).parents[2]
GOOD, BAD = 45, 5


@pytest.fixture
def sent(pipeline: Pipeline) -> Pipeline:
    """A queue with good and bad messages, each good one with a user of its own."""
    events = [
        {"user_id": f"user-{n}", "device_type": "ios", "ip": f"10.0.0.{n}", "device_id": f"d-{n}", "app_version": "1.2"}
        for n in range(GOOD)
    ]
    pipeline.send([*map(json.dumps, events), *(f"not json {n}" for n in range(BAD))])
    return pipeline


def run_until(point: str, how: str, *, visibility_seconds: int, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LOGINPIPE_VISIBILITY_SECONDS": str(visibility_seconds), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "loginpipe_tests.broken_run", point, how],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def drain(pipeline: Pipeline, *, seconds: float) -> None:
    """Run again until the queue holds nothing, as the sensor would."""

    def empty() -> bool:
        if pipeline.depth() != (0, 0):
            assert pipeline.run().success
        return pipeline.depth() == (0, 0)

    eventually(empty, "the queue is empty", seconds)


def assert_each_once(pipeline: Pipeline) -> None:
    users = [user for (user,) in pipeline.rows("SELECT user_id FROM user_logins")]
    assert sorted(users) == sorted(f"user-{n}" for n in range(GOOD))
    assert pipeline.rows("SELECT count(*), count(DISTINCT message_id) FROM loginpipe.rejected_messages") == [(BAD, BAD)]
    assert pipeline.rows("SELECT count(*) FROM loginpipe.ingested_messages") == [(GOOD + BAD,)]


@pytest.mark.parametrize("point", POINTS)
def test_after_a_kill_at_any_point_a_fresh_run_leaves_every_message_in_one_place_once(
    sent: Pipeline, tmp_path: Path, point: str
) -> None:
    killed = run_until(point, "kill", visibility_seconds=4, folder=tmp_path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    drain(sent, seconds=60)
    assert_each_once(sent)


@pytest.mark.parametrize(
    ("point", "how"),
    [
        *((point, "term") for point in POINTS if "before the" not in point),
        ("inside the load transaction", "interrupt"),
        ("half-way through the deletes", "interrupt"),
    ],
)
def test_a_run_that_is_told_to_end_hands_back_what_it_has_not_settled(
    sent: Pipeline, tmp_path: Path, point: str, how: str
) -> None:
    # With leases of ten minutes, the messages can be back this soon only if they were handed back.
    began = time.monotonic()
    ended = run_until(point, how, visibility_seconds=600, folder=tmp_path)
    assert ended.returncode not in {0, -SIGNALS[how]}, ended.stderr[-2000:]
    drain(sent, seconds=90)
    assert time.monotonic() - began < 300
    assert_each_once(sent)
