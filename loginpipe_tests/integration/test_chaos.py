"""Errors of the SQS endpoint, failures of everything at once, and memory. ``make chaos`` runs more of it.

``CHAOS_SEEDS`` (numbers, separated by commas) and ``CHAOS_MESSAGES`` set how much.
"""

import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from loginpipe_tests.conftest import KeyFiles
from loginpipe_tests.crash.logins import logins
from loginpipe_tests.crash.place import FastPlace, fast_place
from loginpipe_tests.crash.postgres import Postgres
from loginpipe_tests.crash.reconciliation import Balance, balance, settled
from loginpipe_tests.crash.schedule import Schedule
from loginpipe_tests.sqs_endpoint import Endpoint

OF_EVERY_TEST = 1
"""The seed of `make test`; its failures are known."""
SEEDS = [int(seed) for seed in os.environ.get("CHAOS_SEEDS", str(OF_EVERY_TEST)).split(",")]
MESSAGES = int(os.environ.get("CHAOS_MESSAGES", "3000"))
GOOD, BAD = 90, 30
BATCH = 40

Report = Callable[[str], None]


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Report:
    """Return a function that prints a line to the terminal, also if the test passes."""

    def say(line: str) -> None:
        with capsys.disabled():
            print(f"\n{line}")

    return say


# --- errors of the endpoint, one at a time ----------------------------------------------------------------------------

RECEIVE, DELETE = "ReceiveMessage", "DeleteMessageBatch"


FEWER_THAN_ATTEMPTS = {"probability": 0.5, "times": 4}
"""Fewer than the five attempts of a call."""


@pytest.mark.parametrize(
    ("kind", "action", "rule"),
    [
        ("throttle", "*", FEWER_THAN_ATTEMPTS),
        ("internal_error", "*", FEWER_THAN_ATTEMPTS),
        ("unavailable", "*", FEWER_THAN_ATTEMPTS),
        ("drop", "*", FEWER_THAN_ATTEMPTS),
        ("drop", RECEIVE, {**FEWER_THAN_ATTEMPTS, "effect": True}),
        ("drop", DELETE, {**FEWER_THAN_ATTEMPTS, "effect": True}),
        ("error", DELETE, {**FEWER_THAN_ATTEMPTS, "effect": True}),
        ("fail_entry", DELETE, {"probability": 0.2, "times": 20}),
        ("fail_entry", DELETE, {"probability": 0.2, "times": 20, "effect": True}),
        ("fail_entry", DELETE, {"probability": 0.2, "code": "ReceiptHandleIsInvalid", "sender_fault": True}),
        ("undelete", DELETE, {"probability": 0.2, "seconds": 1}),
        ("tamper", RECEIVE, {"probability": 0.2, "times": 20}),
    ],
    ids=[
        "throttled",
        "internal-errors",
        "unavailable",
        "dropped",
        "received-and-the-answer-dropped",
        "deleted-and-the-answer-dropped",
        "deleted-and-an-error-answered",
        "single-deletes-refused",
        "single-deletes-done-and-refused",
        "single-deletes-refused-for-good",
        "deleted-and-delivered-again",
        "damaged-on-the-way",
    ],
)
def test_no_fault_of_the_endpoint_loses_or_doubles_a_message(
    place: FastPlace, kind: str, action: str, rule: dict[str, Any]
) -> None:
    place.send(logins(GOOD, bad=BAD))
    place.endpoint.seed(1)
    place.endpoint.add_fault(kind, action, queue=place.queue.name, **rule)
    assert place.run(batch_messages=BATCH).success
    (fault,) = place.endpoint.clear_faults()
    assert fault["fired"], "the fault did not occur"
    balance(place)
    place.finish()
    assert settled(place) == Balance(GOOD, BAD, 0)


# --- everything at once -----------------------------------------------------------------------------------------------


@pytest.fixture
def fragile(endpoint: Endpoint, postgres: Postgres, key_files: KeyFiles, tmp_path: Path) -> FastPlace:
    """Return a place on a Postgres server that may be stopped."""
    return fast_place(endpoint, postgres.database(), key_files, tmp_path)


@pytest.mark.filterwarnings("ignore:XDG_RUNTIME_DIR")
@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_happens_no_message_is_lost_or_doubled(
    fragile: FastPlace, postgres: Postgres, report: Report, seed: int
) -> None:
    bad = MESSAGES // 20
    fragile.send(logins(MESSAGES - bad, bad=bad, seed=seed))
    schedule = Schedule(fragile, postgres, Random(seed), batch=max(100, MESSAGES // 100))
    try:
        schedule.carry_out()
        found = settled(fragile)
    except BaseException as error:
        error.add_note(f"seed {seed}; again: CHAOS_SEEDS={seed} CHAOS_MESSAGES={MESSAGES} make chaos")
        error.add_note(str(dict(schedule.happened)))
        raise
    report(f"seed {seed}, {MESSAGES} messages: {found}; {dict(schedule.happened)}")
    assert (found.rows + found.rejects, found.queued) == (MESSAGES, 0)
    broken = schedule.broken()
    assert all(broken.values()) if seed == OF_EVERY_TEST else any(broken.values()), f"it was calm: {broken}"


# --- memory -----------------------------------------------------------------------------------------------------------


def peak_mebibytes(place: FastPlace, **settings: object) -> float:
    """Run the job in its own process; return its peak memory."""
    environment = {f"LOGINPIPE_{name.upper()}": str(value) for name, value in settings.items()}
    with place.start_fresh("-m", "loginpipe_tests.crash.run_job", "--folder", ".", **environment) as run:
        assert run.wait(600) == 0, run.log()
        return float(run.report()["peak_mebibytes"])


def test_the_memory_of_a_batch_is_bounded_by_its_messages(place: FastPlace, report: Report) -> None:
    number = 2 * MESSAGES
    # A run with few messages takes 35 MiB more on Python 3.14 than on 3.11.
    place.send(logins(10, seed=2))
    least = peak_mebibytes(place)
    place.send(logins(number, seed=1))
    peak = peak_mebibytes(place, batch_messages=number, linger_seconds=60, brake="off")
    report(f"{number} ordinary messages in one batch: peak of {peak:.0f} MiB; {least:.0f} MiB with 10")
    assert place.rows("SELECT max(received) FROM loginpipe.batches") == [(number,)]
    assert peak < least + 5 + number * 0.0025
