"""Several runs on one queue at once, and runs that last longer than their leases: each message is recorded once."""

import time
from bisect import bisect_left
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, date, datetime
from pathlib import Path
from threading import Event
from typing import Any

import dagster as dg
import pytest

from loginpipe.ingest.process import Outcome, process_batch
from loginpipe.logins.delays import DELAY_BOUNDS
from loginpipe_tests.conftest import Pipeline
from loginpipe_tests.crash.logins import logins
from loginpipe_tests.crash.place import VISIBILITY_SECONDS, FastPlace
from loginpipe_tests.crash.points import Point
from loginpipe_tests.crash.reconciliation import Balance, balance, settled
from loginpipe_tests.wire import eventually, login, metadata, received_again

EXTEND = "ChangeMessageVisibilityBatch"
LEASE_SECONDS = 3
"""The shortest that the settings allow."""

KEPT_SECONDS = 6
"""Used if no lease may be lost. Two thirds of it are enough for an extension, even on a very busy machine."""

WHOLE_SECONDS = 20
"""How long a batch waits for its last message. By default, a busy machine makes more batches, and smaller ones."""

MANY, SLOW_SECONDS = 3000, 0.15
"""Extending their leases takes 1.5 s with the 30 parallel calls for such a batch, and 5.6 s with 8."""


def run_at_once(place: FastPlace, runs: int, **settings: object) -> None:
    with ExitStack() as stack:
        # Each waits until all have received a message, because one run may finish before the next one has started.
        started = [stack.enter_context(place.start(Point.RECEIVING, **settings)) for _ in range(runs)]
        for run in started:
            run.until_reached()
        for run in started:
            run.release()
        codes = [run.wait() for run in started]
        assert codes == [0] * runs, [run.log() for run in started if run.wait()]


def received_by_each_run(place: FastPlace) -> list[int]:
    statement = "SELECT sum(received)::integer FROM loginpipe.batches GROUP BY run_id ORDER BY 1"
    return [received for (received,) in place.rows(statement)]


# --- four at once -----------------------------------------------------------------------------------------------------


def test_four_runs_at_once_take_twenty_thousand_messages_and_each_message_once(place: FastPlace) -> None:
    place.send(logins(19_600, bad=400))
    run_at_once(place, 4, batch_messages=1500)
    assert len(received_by_each_run(place)) == 4
    ((batches,),) = place.rows("SELECT count(*) FROM loginpipe.batches")
    assert batches > 12
    assert set(place.receives()) == {1}
    assert settled(place) == Balance(19_600, 400, 0)


def test_runs_that_are_given_the_same_messages_at_once_record_each_message_once(place: FastPlace) -> None:
    place.send(logins(450, bad=50))
    # A run may receive some of its own messages again, and then waits this long for a batch of them.
    one_batch = {"batch_messages": 500, "linger_seconds": 5}
    with ExitStack() as stack:
        runs = []
        for _ in range(3):
            runs.append(stack.enter_context(place.start(Point.RECEIVED, "hang-alone", brake="off", **one_batch)))
            runs[-1].until_reached()
            place.endpoint.advance(VISIBILITY_SECONDS + 1)
        for run in runs:
            run.release()
        assert [run.wait() for run in runs] == [0, 0, 0], [run.log() for run in runs]
    received = received_by_each_run(place)
    assert len(received) == 3
    # A run may have received its own messages again, and counts them again.
    assert min(received) >= 500
    assert place.rows("SELECT sum(duplicates)::integer FROM loginpipe.batches") == [(sum(received) - 500,)]
    balance(place)
    place.finish()
    assert settled(place) == Balance(450, 50, 0)


# --- one after the other ----------------------------------------------------------------------------------------------

MORE = 3000
"""More than two runs can take from such a slow queue in the time of one, and until it has started."""


def test_a_run_whose_time_is_up_leaves_the_rest_to_its_successor_that_consumes_already(place: FastPlace) -> None:
    place.send(logins(MORE - 50, bad=50))
    place.endpoint.add_fault("delay", "ReceiveMessage", queue=place.queue.name, seconds=0.05)
    with place.start(batch_messages=20, receivers=1, run_seconds=600) as successor:
        eventually(lambda: received_by_each_run(place) != [], "it consumes already", seconds=60)
        with place.start(batch_messages=20, receivers=1, run_seconds=4) as first:
            assert first.wait() == 0, first.log()
        assert place.waiting() > 0, "it left no rest"
        place.endpoint.clear_faults()
        assert successor.wait() == 0, successor.log()
    ids = [first.report()["run_id"], successor.report()["run_id"]]
    statement = (
        "SELECT sum(received)::integer, min(recorded_at), max(recorded_at) FROM loginpipe.batches WHERE run_id = %s"
    )
    (of_first,), (of_successor,) = (place.rows(statement, run_id) for run_id in ids)
    assert of_first[0] + of_successor[0] == MORE
    assert min(of_first[0], of_successor[0]) > 0
    assert of_successor[1] < of_first[2] < of_successor[2], "they worked at the same time, and one longer"
    assert set(place.receives()) == {1}
    assert settled(place) == Balance(MORE - 50, 50, 0)


def test_messages_that_trickle_in_are_stored_at_once_by_one_run_that_ends_when_no_more_come(
    pipeline: Pipeline, long_polls: None
) -> None:
    ended: list[float] = []

    def trickle() -> None:
        for number in range(50):
            pipeline.send([login(user_id=f"user-{number}")])
            # The longer pause is still shorter than the time that a run stays idle.
            time.sleep(1.2 if number == 25 else 0.1)
        ended.append(time.monotonic())

    pipeline.send([login(user_id="the first")])
    with ThreadPoolExecutor(1) as threads:
        trickling = threads.submit(trickle)
        result = pipeline.run(idle_seconds=6)
        finished = time.monotonic()
        trickling.result()
    assert result.success
    batches, inserted = pipeline.rows("SELECT count(*), sum(inserted)::integer FROM loginpipe.batches")[0]
    assert inserted == 51
    assert batches > 4
    assert 5 < finished - ended[0] < 60
    ((slowest, counts),) = pipeline.rows(
        """
        SELECT max(delay_seconds / inserted), array_agg(delay_counts) FROM loginpipe.batches WHERE inserted > 0
        """
    )
    assert slowest < 5
    late = sum(sum(of_batch[bisect_left(DELAY_BOUNDS, 5) + 1 :]) for of_batch in counts)
    assert late == 0


# --- leases that are shorter than the run -----------------------------------------------------------------------------


class Held:
    """A run in a thread, held at a point until it is released. Until then, others may receive.

    Its batches are of this many messages.
    """

    def __init__(
        self,
        place: FastPlace,
        point: Point,
        batch_messages: int,
        visibility_seconds: int = LEASE_SECONDS,
        *,
        receives: bool = False,
        **settings: object,
    ) -> None:
        self._place = place
        whole = {"batch_messages": batch_messages, "linger_seconds": WHOLE_SECONDS}
        self._settings = {"visibility_seconds": visibility_seconds, **whole, **settings}
        self._point = point
        self._receives = receives
        self._reached = Event()
        self._released = Event()
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> "Held":
        self._result = self._pool.submit(self._run)
        eventually(lambda: self._reached.is_set() or self._result.done(), "the run is at the point", seconds=60)
        assert self._reached.is_set(), self._result.result()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._pool.shutdown()

    def _run(self) -> dg.ExecuteInProcessResult:
        return self._place.run(self._point, self._hold, receives=self._receives, **self._settings)

    def _hold(self) -> None:
        self._reached.set()
        assert self._released.wait(60)

    def released(self) -> dg.ExecuteInProcessResult:
        """Let it continue, and wait for its end."""
        self._released.set()
        result = self._result.result(60)
        assert result.success
        return result


def delivered_to_others_within(place: FastPlace, seconds: float) -> set[str]:
    """Act as a second consumer for some seconds; return the ids of the messages that it received."""
    given: set[str] = set()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = place.queue.client.receive_message(
            QueueUrl=place.queue.url, MaxNumberOfMessages=10, WaitTimeSeconds=1, VisibilityTimeout=VISIBILITY_SECONDS
        )
        given |= {message["MessageId"] for message in answer.get("Messages", [])}
    return given


def extensions(place: FastPlace) -> int:
    """Return how many calls to extend leases the endpoint has received."""
    calls: int = place.endpoint.stats()["calls"].get(EXTEND, 0)
    return calls


def leases_lost(place: FastPlace, result: dg.ExecuteInProcessResult) -> tuple[int, int]:
    """Return the number of lost leases in the run's counts, and in the UI."""
    statement = "SELECT sum(leases_lost)::integer FROM loginpipe.batches WHERE run_id = %s"
    ((booked,),) = place.rows(statement, result.run_id)
    return booked, metadata(result)["user_logins_table"]["leases_lost"]


def test_a_run_that_takes_longer_than_its_lease_keeps_its_messages_to_itself(place: FastPlace) -> None:
    place.send(logins(200, bad=50))
    with Held(place, Point.RECEIVED, 250, KEPT_SECONDS, brake="off") as run:
        assert delivered_to_others_within(place, KEPT_SECONDS + 1) == set()
        result = run.released()
    assert leases_lost(place, result) == (0, 0)
    assert set(place.receives()) == {1}
    assert settled(place) == Balance(200, 50, 0)


def test_a_run_of_many_leases_keeps_what_is_in_work_and_what_is_received_meanwhile(
    place: FastPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*arguments: Any, **named: Any) -> Outcome:
        time.sleep(KEPT_SECONDS / 2)
        return process_batch(*arguments, **named)

    place.send(logins(120))
    monkeypatch.setattr("loginpipe.ingest.record.process_batch", slow)
    began = time.monotonic()
    result = place.run(batch_messages=20, visibility_seconds=KEPT_SECONDS)
    assert time.monotonic() - began > 3 * KEPT_SECONDS
    assert extensions(place) > 0
    assert leases_lost(place, result) == (0, 0)
    assert set(place.receives()) == {1}
    assert settled(place) == Balance(120, 0, 0)


def test_when_all_leases_end_at_once_a_run_goes_on_and_each_message_is_recorded_once(place: FastPlace) -> None:
    place.send(logins(90, bad=10))

    def all_leases_end() -> None:
        # All messages in flight become visible again, for this run because there is no other.
        place.endpoint.advance(VISIBILITY_SECONDS + 1)
        eventually(lambda: max(place.receives()) == 2, "the run receives them again")

    result = place.run(Point.RECEIVED, all_leases_end, batch=5, batch_messages=20)
    assert result.success
    ((received, duplicates),) = place.rows(
        "SELECT sum(received)::integer, sum(duplicates)::integer FROM loginpipe.batches"
    )
    assert received - 100 == duplicates > 0
    balance(place)
    place.finish()
    assert settled(place) == Balance(90, 10, 0)


def test_leases_are_kept_until_the_deletes_are_confirmed(place: FastPlace) -> None:
    place.send(logins(200))
    # Two batches. Before the run receives the next one, it waits for the deletes of the first.
    with Held(place, Point.HALF_DELETED, 100, KEPT_SECONDS, receives=True) as run:
        eventually(lambda: place.waiting() == 0, "the second batch is received", seconds=60)
        assert delivered_to_others_within(place, 1.5 * KEPT_SECONDS) == set()
        assert 0 < place.in_flight() <= 200
        result = run.released()
    assert leases_lost(place, result) == (0, 0)
    assert set(place.receives()) == {1}
    assert settled(place) == Balance(200, 0, 0)


def test_enough_extensions_are_made_at_once_for_a_batch_of_thousands_at_a_slow_endpoint(place: FastPlace) -> None:
    place.send(logins(MANY))
    place.endpoint.add_fault("delay", EXTEND, queue=place.queue.name, seconds=SLOW_SECONDS)
    with Held(place, Point.RECEIVED, MANY, KEPT_SECONDS, brake="off") as run:
        # Each lease once, and then once more.
        twice = extensions(place) + 2 * MANY // 10
        eventually(lambda: extensions(place) >= twice, "all extended twice", seconds=4 * KEPT_SECONDS)
        result = run.released()
    assert leases_lost(place, result) == (0, 0)
    assert set(place.receives()) == {1}
    assert settled(place) == Balance(MANY, 0, 0)


@pytest.mark.parametrize(
    "problem",
    [
        {"kind": "fail_entry", "code": "ServiceUnavailable"},
        {"kind": "fail_entry", "code": "ReceiptHandleIsInvalid", "sender_fault": True},
        {"kind": "drop"},
    ],
    ids=["refused", "refused-for-good", "dropped"],
)
def test_leases_that_cannot_be_extended_are_counted_and_the_outcome_is_still_recorded_once(
    place: FastPlace, problem: dict[str, Any]
) -> None:
    place.send(logins(25, bad=5))
    place.endpoint.add_fault(action=EXTEND, queue=place.queue.name, **problem)
    with Held(place, Point.RECEIVED, 30) as run:
        place.endpoint.advance(LEASE_SECONDS)
        assert place.run(visibility_seconds=VISIBILITY_SECONDS).success
        assert settled(place) == Balance(25, 5, 0)
        assert delivered_to_others_within(place, LEASE_SECONDS) == set()
        result = run.released()
    assert leases_lost(place, result) == (30, 30)
    assert settled(place) == Balance(25, 5, 0)


def test_one_extension_that_hangs_does_not_hold_up_the_others(place: FastPlace) -> None:
    place.send(logins(40))
    hangs = 1.5 * KEPT_SECONDS
    place.endpoint.add_fault("delay", EXTEND, queue=place.queue.name, seconds=hangs, times=1)
    with Held(place, Point.RECEIVED, 40, KEPT_SECONDS) as run:
        delivered = delivered_to_others_within(place, hangs)
        result = run.released()
    assert len(delivered) <= 10
    assert leases_lost(place, result) == (len(delivered), len(delivered))
    place.finish()
    assert settled(place) == Balance(40, 0, 0)


def test_a_run_that_fails_says_how_many_leases_it_lost_and_what_came_back_by_itself(
    place: FastPlace, capfd: pytest.CaptureFixture[str]
) -> None:
    place.send(logins(25))
    place.endpoint.add_fault("fail_entry", EXTEND, queue=place.queue.name, code="ServiceUnavailable")

    def fail_when_the_leases_are_over() -> None:
        eventually(lambda: place.waiting() == 25, "the leases are over", seconds=60)
        # Otherwise the run may receive them again before it ends, and lose those leases as well.
        received_again(place.queue, 25)
        raise ZeroDivisionError

    one_batch = {"batch_messages": 25, "linger_seconds": WHOLE_SECONDS, "visibility_seconds": LEASE_SECONDS}
    failed = place.run(Point.RECEIVED, fail_when_the_leases_are_over, receives=False, **one_batch)
    assert not failed.success
    assert (
        f"25 messages were not deleted and returned to queue '{place.queue.name}', 25 of them after their timeout; "
        "25 leases were lost; see "
    ) in capfd.readouterr().err


@pytest.mark.parametrize(("batch_messages", "warned"), [(1066, False), (1067, True)])
def test_a_batch_that_is_too_large_for_so_short_a_lease_is_warned_of_at_the_start(
    place: FastPlace, capfd: pytest.CaptureFixture[str], batch_messages: int, *, warned: bool
) -> None:
    assert place.run(batch_messages=batch_messages, visibility_seconds=3).success
    warning = "LOGINPIPE_BATCH_MESSAGES is 1067, but leases of 3 s can be extended in time for batches of 1066 only"
    assert (warning in capfd.readouterr().err) is warned


# --- clocks -----------------------------------------------------------------------------------------------------------

CLOCK = Path(__file__).parents[1] / "crash" / "jumping_clock"


def today(place: FastPlace) -> date:
    """Return the endpoint's date, because other tests set its clock forward."""
    return datetime.fromtimestamp(place.endpoint.stats()["now"], UTC).date()


def test_a_wall_clock_that_is_wrong_and_jumps_changes_neither_leases_nor_dates(place: FastPlace) -> None:
    before = today(place)
    place.send(logins(50, bad=10))
    command = ("-m", "loginpipe_tests.crash.run_job", "--folder", ".", "--stop-at", Point.RECEIVED)
    environment = {
        "PYTHONPATH": str(CLOCK),
        "CRASH_CLOCK_HOURS": "-30,30",
        "LOGINPIPE_VISIBILITY_SECONDS": str(KEPT_SECONDS),
        "LOGINPIPE_BATCH_MESSAGES": "60",
        "LOGINPIPE_LINGER_SECONDS": str(WHOLE_SECONDS),
    }
    with place.start_fresh(*command, **environment) as run:
        run.until_reached()
        assert delivered_to_others_within(place, KEPT_SECONDS + 1) == set()
        run.release()
        assert run.wait() == 0, run.log()
    assert place.rows("SELECT sum(leases_lost) FROM loginpipe.batches") == [(0,)]
    assert settled(place) == Balance(50, 10, 0)
    dates = {day for (day,) in place.rows("SELECT create_date FROM user_logins")}
    assert dates <= {before, today(place)}
    # The clock may jump while the batch is received.
    received_at = {day for (day,) in place.rows("SELECT DISTINCT received_at::date FROM loginpipe.rejected_messages")}
    assert received_at
    assert received_at.isdisjoint(dates), "the clock was not wrong at all"
