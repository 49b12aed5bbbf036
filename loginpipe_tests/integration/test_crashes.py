"""Runs that are killed, interrupted or cancelled at every point: afterwards each message is in exactly one place."""

import json
import signal
from itertools import count
from pathlib import Path
from threading import Event

import dagster as dg
import psycopg2
import pytest

from loginpipe.local.stack import LocalStack
from loginpipe_tests.conftest import KeyFiles
from loginpipe_tests.crash.logins import logins
from loginpipe_tests.crash.place import VISIBILITY_SECONDS, EmbeddedPlace, FastPlace, embedded_place, fast_place
from loginpipe_tests.crash.points import Point
from loginpipe_tests.crash.reconciliation import Balance, balance, settled
from loginpipe_tests.crash.runs import Run
from loginpipe_tests.sqs_endpoint import Endpoint
from loginpipe_tests.wire import Answer, Call, Forward, Wire, eventually

GOOD, BAD = 150, 120
BATCH = 90
"""Three batches. After the first two delete calls, most deletes of a batch are still to come."""
WHOLE_SECONDS = 60
"""How long a batch waits for its last message. By default, a busy machine makes more batches, and smaller ones."""
FEW = 20

RECORDED = {Point.RECORDED, Point.HALF_DELETED, Point.DELETED}
"""Points at which the current batch is committed."""


@pytest.fixture
def place(endpoint: Endpoint, database_url: str, key_files: KeyFiles, tmp_path: Path) -> FastPlace:
    """Return a place with logins, and with messages to be rejected."""
    place = fast_place(endpoint, database_url, key_files, tmp_path)
    place.send(logins(GOOD, bad=BAD))
    return place


@pytest.fixture
def embedded(stack: LocalStack, database_url: str, key_files: KeyFiles, tmp_path: Path) -> EmbeddedPlace:
    """Return a place with a few logins on the embedded endpoint."""
    place = embedded_place(stack.aws_environment, database_url, key_files, tmp_path)
    place.send(logins(FEW))
    return place


def no_transaction_is_left_open(place: FastPlace | EmbeddedPlace) -> bool:
    others = "datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
    return place.rows(f"SELECT count(*) FROM pg_stat_activity WHERE {others}") == [(0,)]


def assert_stopped_at(point: Point, batch: int, found: Balance) -> None:
    """Check that whole batches are committed, and that deletes have not started, are half done, or done."""
    assert found.rows + found.rejects + found.queued == GOOD + BAD
    if point is Point.RECEIVING:
        assert found.rows + found.rejects in {0, BATCH}
        return
    committed = BATCH * (batch if point in RECORDED else batch - 1)
    # Deletes are one batch late; other batches may be recorded in that time.
    assert found.rows + found.rejects in range(committed, committed + 2 * BATCH + 1, BATCH)
    if point is Point.RECORDED:
        assert found.recorded_and_queued >= BATCH
    elif point is Point.HALF_DELETED:
        assert found.recorded_and_queued > 0


# --- SIGKILL ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("point", list(Point))
def test_after_a_kill_at_any_point_of_a_batch_the_messages_come_back_and_end_in_one_place(
    place: FastPlace, point: Point, batch: int
) -> None:
    with place.start(point, "kill", batch, batch_messages=BATCH, linger_seconds=WHOLE_SECONDS) as run:
        assert run.wait() == -signal.SIGKILL
    found = balance(place)
    assert_stopped_at(point, batch, found)
    untouched = place.waiting()
    place.endpoint.advance(VISIBILITY_SECONDS - 30)
    assert place.waiting() == untouched

    place.endpoint.advance(31)
    assert place.waiting() == found.queued + found.recorded_and_queued
    place.drain()
    assert settled(place) == Balance(GOOD, BAD, 0)
    eventually(lambda: no_transaction_is_left_open(place), "the killed run's connection is gone", seconds=60)


def test_after_a_kill_with_one_batch_undeleted_and_the_next_in_work_each_message_ends_in_one_place(
    place: FastPlace,
) -> None:
    place.endpoint.add_fault("delay", "DeleteMessageBatch", queue=place.queue.name, seconds=20)
    with place.start(Point.WRITTEN, "kill", 2, batch_messages=BATCH, linger_seconds=WHOLE_SECONDS) as run:
        assert run.wait() == -signal.SIGKILL
    place.endpoint.clear_faults()
    found = balance(place)
    assert found.rows + found.rejects == found.recorded_and_queued == BATCH
    place.endpoint.advance(VISIBILITY_SECONDS + 1)
    place.drain()
    assert settled(place) == Balance(GOOD, BAD, 0)
    assert place.rows("SELECT sum(duplicates) FROM loginpipe.batches") == [(BATCH,)]


def test_after_a_kill_a_short_lease_ends_by_itself(embedded: EmbeddedPlace) -> None:
    with embedded.start(Point.WRITTEN, "kill", batch_messages=FEW, visibility_seconds=3) as run:
        assert run.wait() == -signal.SIGKILL
    eventually(lambda: (embedded.waiting(), embedded.in_flight()) == (FEW, 0), "all leases over", seconds=60)
    embedded.drain()
    assert settled(embedded) == Balance(FEW, 0, 0)


def test_messages_of_runs_that_were_all_killed_wait_on_the_dead_letter_queue_and_hold_up_no_others(
    place: FastPlace,
) -> None:
    policy = place.queue.client.get_queue_attributes(QueueUrl=place.queue.url, AttributeNames=["RedrivePolicy"])
    twice = {**json.loads(policy["Attributes"]["RedrivePolicy"]), "maxReceiveCount": "2"}
    place.queue.client.set_queue_attributes(QueueUrl=place.queue.url, Attributes={"RedrivePolicy": json.dumps(twice)})
    one_batch = {"batch_messages": GOOD + BAD, "linger_seconds": WHOLE_SECONDS}
    for _ in range(2):
        with place.start(Point.WRITTEN, "kill", brake="off", **one_batch) as run:
            assert run.wait() == -signal.SIGKILL
        place.endpoint.advance(VISIBILITY_SECONDS + 1)
    place.send(logins(10))
    place.drain()
    assert settled(place) == Balance(10, 0, GOOD + BAD)
    place.finish()
    assert settled(place) == Balance(GOOD + 10, BAD, 0)


# --- SIGTERM, Ctrl-C and cancellation ---------------------------------------------------------------------------------


def assert_returned(place: FastPlace, found: Balance) -> None:
    """Check that all messages that are neither deleted nor visible become visible after at most two seconds."""
    place.endpoint.advance(2)
    assert (place.in_flight(), place.waiting()) == (0, found.queued + found.recorded_and_queued)


@pytest.mark.parametrize("how", ["term", "interrupt"])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("point", list(Point))
def test_a_run_that_is_told_to_end_finishes_the_batch_in_work_and_returns_the_rest(
    place: FastPlace, point: Point, batch: int, how: str
) -> None:
    with place.start(point, how, batch, batch_messages=BATCH, linger_seconds=WHOLE_SECONDS) as run:
        assert run.wait() == 1, run.log()
    found = balance(place)
    assert found.recorded_and_queued == 0
    assert (found.rows + found.rejects) % BATCH == 0
    assert found.rows + found.rejects >= BATCH * (batch if point is not Point.RECEIVING else 0)
    assert found.rows + found.rejects + found.queued == GOOD + BAD
    assert_returned(place, found)
    place.drain()
    assert settled(place) == Balance(GOOD, BAD, 0)


def test_a_run_that_is_told_to_end_returns_the_batch_that_it_has_received_meanwhile(place: FastPlace) -> None:
    with place.start(Point.RECEIVED, "hang", 2, batch_messages=BATCH, linger_seconds=WHOLE_SECONDS) as run:
        run.until_reached()
        # The first batch is deleted, the second one in progress, and the third one complete.
        eventually(
            lambda: (place.waiting(), place.in_flight()) == (0, 2 * BATCH), "the third batch is received", seconds=60
        )
        run.signal(signal.SIGTERM)
        run.release()
        assert run.wait() == 1, run.log()
    found = balance(place)
    assert (found.rows + found.rejects, found.queued, found.recorded_and_queued) == (2 * BATCH, BATCH, 0)
    assert_returned(place, found)
    place.drain()
    assert settled(place) == Balance(GOOD, BAD, 0)


def test_a_run_that_is_told_to_end_while_deletes_hang_ends_in_seconds(place: FastPlace) -> None:
    place.endpoint.add_fault("delay", "DeleteMessageBatch", queue=place.queue.name, seconds=25)
    with place.start(Point.RECORDED, "hang", 2, batch_messages=BATCH, linger_seconds=WHOLE_SECONDS) as run:
        run.until_reached()
        # Read from the endpoint, because it counts the test's own calls too.
        asked = place.endpoint.stats()["calls"]["GetQueueAttributes"]
        run.signal(signal.SIGTERM)
        run.release()
        eventually(
            lambda: place.endpoint.stats()["queues"][place.queue.name]["in_flight"] < GOOD + BAD,
            "what is not deleted goes back",
            seconds=20,
        )
        assert run.wait() == 1, run.log()
    assert place.endpoint.stats()["calls"]["GetQueueAttributes"] == asked, "no queue is asked for its depth any more"
    place.endpoint.clear_faults()
    place.finish()
    assert settled(place) == Balance(GOOD, BAD, 0)


def test_messages_returned_are_visible_within_seconds(embedded: EmbeddedPlace) -> None:
    with embedded.start(Point.RECEIVING, "term", batch_messages=FEW) as run:
        assert run.wait() == 1, run.log()
    eventually(lambda: (embedded.waiting(), embedded.in_flight()) == (FEW, 0), "returned", seconds=60)
    embedded.drain()
    assert settled(embedded) == Balance(FEW, 0, 0)


WHOLE_BATCHES = {"LOGINPIPE_BATCH_MESSAGES": str(BATCH), "LOGINPIPE_LINGER_SECONDS": str(WHOLE_SECONDS)}


def test_a_run_of_the_dagster_command_line_that_is_told_to_end_returns_what_it_has_not_settled(
    place: FastPlace,
) -> None:
    command = ("-m", "dagster", "asset", "materialize", "-m", "loginpipe_tests.crash.definitions")
    environment = {"CRASH_STOP_AT": Point.WRITTEN, **WHOLE_BATCHES}
    with place.start_fresh(*command, "--select", "group:login_ingest", **environment) as run:
        run.until_reached()
        run.signal(signal.SIGTERM)
        run.release()
        assert run.wait() == 1, run.log()
    found = balance(place)
    assert found.recorded_and_queued == 0
    assert found.rows + found.rejects in {BATCH, 2 * BATCH}
    assert_returned(place, found)
    place.drain()
    assert settled(place) == Balance(GOOD, BAD, 0)


DAGSTER_YAML = """
run_coordinator: {module: dagster._core.run_coordinator, class: DefaultRunCoordinator}
telemetry: {enabled: false}
"""


def test_a_run_that_is_cancelled_in_dagster_returns_what_it_has_not_settled(place: FastPlace) -> None:
    home = place.folder / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text(DAGSTER_YAML)
    command = ("-m", "dagster", "job", "launch", "-m", "loginpipe_tests.crash.definitions", "-j", "ingest_logins")
    environment = {"CRASH_STOP_AT": Point.WRITTEN, **WHOLE_BATCHES}
    # The instance is created first, because otherwise both create its tables, and SQLite refuses the second time.
    with (
        dg.DagsterInstance.from_config(str(home)) as instance,
        place.start_fresh(*command, DAGSTER_HOME=str(home), **environment) as launching,
    ):
        assert launching.wait() == 0, launching.log()
        eventually((launching.folder / "reached").exists, "the run is at the point", seconds=120)
        (run,) = instance.get_runs()
        assert instance.run_coordinator.cancel_run(run.run_id)
        launching.release()
        eventually(lambda: instance.get_runs()[0].status is dg.DagsterRunStatus.CANCELED, "cancelled", seconds=60)
    found = balance(place)
    assert found.recorded_and_queued == 0
    assert found.rows + found.rejects in {BATCH, 2 * BATCH}
    assert_returned(place, found)
    place.drain()
    assert settled(place) == Balance(GOOD, BAD, 0)


@pytest.mark.parametrize("signals", [1, 2])
def test_messages_of_a_long_poll_that_ends_after_the_run_was_told_to_end_go_back_too(
    place: FastPlace, signals: int
) -> None:
    runs: list[Run] = []
    receives = count(1)

    def late(call: Call, forward: Forward) -> Answer:
        answer = forward(call)
        if next(receives) == 2:
            for _ in range(signals):
                runs[0].signal(signal.SIGTERM)
                Event().wait(0.2)
        return answer

    with Wire(place.endpoint.url) as wire:
        wire.on("ReceiveMessage", late)
        place.environment["AWS_ENDPOINT_URL"] = wire.url
        with place.start(batch_messages=30, receivers=2) as run:
            runs.append(run)
            assert run.wait() == 1, run.log()
        place.environment["AWS_ENDPOINT_URL"] = place.endpoint.url
    assert sum(place.receives()) in range(20, 61)
    assert_returned(place, balance(place))


def test_a_run_that_waits_for_a_lock_of_the_database_ends_when_it_is_told_to(place: FastPlace) -> None:
    waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    someone = psycopg2.connect(place.database_url)
    try:
        someone.cursor().execute("LOCK TABLE user_logins")
        with place.start(batch_messages=BATCH) as run:
            eventually(lambda: place.rows(waits) == [(1,)], "the load waits for the lock", seconds=60)
            run.signal(signal.SIGTERM)
            assert run.wait(60) == 1
    finally:
        someone.close()
    found = balance(place)
    assert (found.rows, found.rejects) == (0, 0)
    assert_returned(place, found)
