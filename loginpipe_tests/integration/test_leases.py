"""Leases on the real endpoint: kept while a message is in flight, returned at the end, counted if lost."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Event, current_thread
from typing import Any

import pytest

from loginpipe.sqs.client import Queue, read_depth
from loginpipe.sqs.leases import LONGEST_LEASE_SECONDS, MAX_BACK_OFF_SECONDS, LeaseKeeper, Returned, back_off_seconds
from loginpipe_tests.clock import Clock
from loginpipe_tests.wire import (
    Answer,
    Call,
    Forward,
    Wire,
    answers,
    eventually,
    failed_entries,
    first,
    received,
    received_again,
    refusal,
)

pytestmark = pytest.mark.usefixtures("either_client", "tried_once")

CHANGE = "ChangeMessageVisibilityBatch"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def leases(opened: Queue, clock: Clock) -> Iterator[LeaseKeeper]:
    """Yield a keeper of two-minute leases, whose own thread does nothing during a test."""
    leases = LeaseKeeper(opened, visibility_seconds=120, calls_at_once=2, clock=clock)
    yield leases
    leases.close()


def extend_due(leases: LeaseKeeper) -> None:
    """Extend the leases that are due, as the keeper's thread does from time to time, and wait for the answers."""
    wait(leases._begin_extensions())


def entries(wire: Wire) -> list[dict[str, Any]]:
    """Return the entries of all changes of visibility so far."""
    return [entry for request in wire.asked(CHANGE) for entry in request["Entries"]]


def test_a_message_that_is_held_for_longer_than_its_lease_does_not_come_back(opened: Queue) -> None:
    # An extension may come four seconds late on a busy machine.
    leases = LeaseKeeper(opened, visibility_seconds=6, calls_at_once=2)
    leases.add(received(opened, 12, visibility_seconds=6), asked=time.monotonic())
    until = time.monotonic() + 7
    while time.monotonic() < until:
        other = opened.client.receive_message(QueueUrl=opened.url, WaitTimeSeconds=1, MaxNumberOfMessages=10)
        assert other.get("Messages", []) == []
    assert (leases.held, leases.lost) == (12, 0)
    assert leases.close() == Returned(returned=12)


def test_what_is_still_held_at_the_end_goes_back_soon(opened: Queue) -> None:
    leases = LeaseKeeper(opened, visibility_seconds=120, calls_at_once=2)
    leases.add(received(opened, 12), asked=time.monotonic())
    assert leases.close() == Returned(returned=12)
    assert leases.held == 0
    eventually(lambda: read_depth(opened).visible == 12, "all messages back", seconds=30)


def test_a_keeper_that_was_given_nothing_closes_without_a_call(opened: Queue, wire: Wire) -> None:
    assert LeaseKeeper(opened, visibility_seconds=120, calls_at_once=2).close() == Returned()
    assert wire.asked(CHANGE) == []


def test_messages_handed_back_are_visible_at_once_and_no_longer_held(
    opened: Queue, leases: LeaseKeeper, clock: Clock
) -> None:
    messages = received(opened, 12)
    leases.add(messages, asked=clock.now)
    leases.return_to_queue(messages[:11])
    assert read_depth(opened).visible == 11
    assert leases.held == 1


def test_a_lease_is_extended_when_a_third_of_it_has_passed_and_not_before(
    opened: Queue, leases: LeaseKeeper, clock: Clock, wire: Wire
) -> None:
    (message,) = received(opened, 1)
    leases.add([message], asked=clock.now)
    clock.now += 39
    extend_due(leases)
    assert entries(wire) == []
    clock.now += 1
    extend_due(leases)
    extend_due(leases)
    assert entries(wire) == [{"Id": "0", "ReceiptHandle": message.receipt_handle, "VisibilityTimeout": 120}]
    clock.now += 40
    extend_due(leases)
    assert len(entries(wire)) == 2


def test_leases_are_extended_ten_a_call_and_those_that_end_first_go_first(
    opened: Queue, leases: LeaseKeeper, clock: Clock, wire: Wire
) -> None:
    messages = received(opened, 23)
    leases.add(messages[20:], asked=clock.now)
    leases.add(messages[:20], asked=clock.now - 10)
    clock.now += 50
    extend_due(leases)
    assert sorted(len(request["Entries"]) for request in wire.asked(CHANGE)) == [3, 10, 10]
    last = {message.receipt_handle for message in messages[20:]}
    assert [r for r in wire.asked(CHANGE) if {e["ReceiptHandle"] for e in r["Entries"]} == last]


def test_a_settled_message_is_extended_and_handed_back_no_more(
    opened: Queue, leases: LeaseKeeper, clock: Clock, wire: Wire
) -> None:
    messages = received(opened, 2)
    leases.add(messages, asked=clock.now)
    leases.settle([messages[0].message_id])
    clock.now += 50
    extend_due(leases)
    assert [entry["ReceiptHandle"] for entry in entries(wire)] == [messages[1].receipt_handle]
    assert leases.close() == Returned(returned=1)


def test_of_a_message_received_again_the_newest_handle_is_extended(
    opened: Queue, leases: LeaseKeeper, clock: Clock, wire: Wire
) -> None:
    (old,) = received(opened, 1, visibility_seconds=0)
    leases.add([old], asked=clock.now)
    (new,) = received_again(opened, 1)
    leases.add([new], asked=clock.now)
    assert leases.handles([old.message_id, "unknown"]) == {old.message_id: new.receipt_handle}
    clock.now += 50
    extend_due(leases)
    assert [entry["ReceiptHandle"] for entry in entries(wire)] == [new.receipt_handle]
    assert (leases.held, leases.lost) == (1, 0)


@pytest.mark.parametrize(
    "code", ["ReceiptHandleIsInvalid", "AWS.SimpleQueueService.MessageNotInflight", "InvalidParameterValue"]
)
def test_a_lease_that_sqs_says_is_over_is_counted_once_and_not_asked_for_again(
    opened: Queue, leases: LeaseKeeper, clock: Clock, wire: Wire, code: str
) -> None:
    messages = received(opened, 3)
    lost = messages[1].receipt_handle
    wire.on(CHANGE, failed_entries(code, sender_fault=True, which=lambda entry: entry["ReceiptHandle"] == lost))
    leases.add(messages, asked=clock.now)
    for _ in range(2):
        clock.now += 50
        extend_due(leases)
    assert (leases.lost, leases.held) == (1, 3)
    assert [entry["ReceiptHandle"] for entry in entries(wire)].count(lost) == 1


@pytest.mark.parametrize(
    "problem",
    [failed_entries("InternalError", sender_fault=False), answers(refusal("InternalError", 500))],
    ids=["of the entries", "of the call"],
)
def test_a_problem_of_the_server_loses_no_lease_until_its_time_is_over(
    opened: Queue, leases: LeaseKeeper, clock: Clock, wire: Wire, problem: Any
) -> None:
    wire.on(CHANGE, problem)
    leases.add(received(opened, 2), asked=clock.now)
    clock.now += 100
    extend_due(leases)
    assert leases.lost == 0
    clock.now += 21
    extend_due(leases)
    assert leases.lost == 2


def test_a_lease_that_could_not_be_extended_once_is_extended_at_the_next_try(
    opened: Queue, leases: LeaseKeeper, clock: Clock, wire: Wire
) -> None:
    wire.on(CHANGE, first(1, answers(refusal("ServiceUnavailable", 503))))
    leases.add(received(opened, 2), asked=clock.now)
    for _ in range(2):
        clock.now += 50
        extend_due(leases)
    clock.now += 100
    extend_due(leases)
    assert leases.lost == 0


def test_a_message_that_was_lost_and_received_again_is_kept_again(
    opened: Queue, leases: LeaseKeeper, clock: Clock, wire: Wire
) -> None:
    wire.on(CHANGE, first(1, failed_entries("ReceiptHandleIsInvalid", sender_fault=True)))
    leases.add(received(opened, 1, visibility_seconds=0), asked=clock.now)
    clock.now += 50
    extend_due(leases)
    assert leases.lost == 1
    (again,) = received_again(opened, 1)
    leases.add([again], asked=clock.now)
    clock.now += 50
    extend_due(leases)
    assert entries(wire)[-1]["ReceiptHandle"] == again.receipt_handle
    assert leases.lost == 1


def test_a_failure_of_an_old_handle_says_nothing_of_the_delivery_that_came_meanwhile(
    opened: Queue, leases: LeaseKeeper, clock: Clock, wire: Wire
) -> None:
    def fails_while_it_comes_again(call: Call, forward: Forward) -> Answer:
        leases.add(received_again(opened, 1), asked=clock.now)
        return failed_entries("ReceiptHandleIsInvalid", sender_fault=True)(call, forward)

    leases.add(received(opened, 1, visibility_seconds=0), asked=clock.now)
    wire.on(CHANGE, first(1, fails_while_it_comes_again))
    clock.now += 50
    extend_due(leases)
    clock.now += 50
    extend_due(leases)
    (old, new) = entries(wire)
    assert new["ReceiptHandle"] != old["ReceiptHandle"]


def test_no_extension_reaches_beyond_the_twelve_hours_that_sqs_allows(opened: Queue, clock: Clock, wire: Wire) -> None:
    leases = LeaseKeeper(opened, visibility_seconds=20_000, calls_at_once=1, clock=clock)
    begins = clock.now
    leases.add(received(opened, 1, visibility_seconds=20_000), asked=begins)
    for _ in range(5):
        clock.now += 7_000
        extend_due(leases)
    assert [entry["VisibilityTimeout"] for entry in entries(wire)] == [20_000, 20_000, 20_000, 15_200, 8_200]
    assert leases.lost == 0
    clock.now = begins + LONGEST_LEASE_SECONDS
    extend_due(leases)
    assert leases.lost == 1
    assert len(entries(wire)) == 5
    leases.close()


def test_the_keeping_goes_on_after_a_failure_that_no_one_foresaw(opened: Queue) -> None:
    rounds: list[None] = []

    def failing() -> float:
        if current_thread().name != "lease-keeper":
            return time.monotonic()
        rounds.append(None)
        raise ZeroDivisionError

    leases = LeaseKeeper(opened, visibility_seconds=1, calls_at_once=1, clock=failing)
    # The lease is not over when the keeper closes, however long the rounds take.
    leases.add(received(opened, 1), asked=time.monotonic() + 60)
    eventually(lambda: len(rounds) > 2, "further rounds")
    assert leases.close() == Returned(returned=1)


def test_messages_that_arrive_after_the_end_go_back_at_once(opened: Queue, leases: LeaseKeeper, clock: Clock) -> None:
    messages = received(opened, 12)
    leases.add(messages[:2], asked=clock.now)
    assert leases.close() == Returned(returned=2)
    leases.add(messages[2:], asked=clock.now)
    assert leases.held == 0
    assert read_depth(opened).visible == 10


def test_what_cannot_be_handed_back_is_not_counted_and_closing_raises_nothing(
    opened: Queue, wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    leases = LeaseKeeper(opened, visibility_seconds=120, calls_at_once=2)
    messages = received(opened, 3)
    kept_back = messages[0].receipt_handle
    wire.on(
        CHANGE, failed_entries("InternalError", sender_fault=False, which=lambda e: e["ReceiptHandle"] == kept_back)
    )
    leases.add(messages, asked=time.monotonic())
    assert leases.close() == Returned(returned=2, failed=1)
    assert "1 messages could not be returned to the queue: they come back when their lease ends" in caplog.text


# --- returning messages -----------------------------------------------------------------------------------------------


class Gate:
    """Blocks calls before they reach the endpoint, until it is opened, at the latest at the end of the context."""

    def __init__(self, holds_up: Callable[[dict[str, Any]], bool] = lambda _: True) -> None:
        self._holds_up = holds_up
        self._open = Event()
        self.taken: list[dict[str, Any]] = []
        """The entries that the endpoint received, in order."""

    def __enter__(self) -> "Gate":
        return self

    def __exit__(self, *_: object) -> None:
        self.open()

    def __call__(self, call: Call, forward: Forward) -> Answer:
        if any(map(self._holds_up, call.request["Entries"])):
            assert self._open.wait(60)
        answer = forward(call)
        self.taken += call.request["Entries"]
        return answer

    def open(self) -> None:
        self._open.set()


def test_an_extension_that_is_under_way_at_the_end_does_not_undo_the_hand_back(
    opened: Queue, leases: LeaseKeeper, clock: Clock, wire: Wire
) -> None:
    messages = received(opened, 25)
    leases.add(messages[:5], asked=clock.now - 50)
    leases.add(messages[5:], asked=clock.now)
    with ThreadPoolExecutor(2) as threads, Gate(lambda entry: entry["VisibilityTimeout"] == 120) as gate:
        wire.on(CHANGE, gate)
        extending = threads.submit(extend_due, leases)
        eventually(lambda: len(entries(wire)) == 5, "the extension is in progress")
        closing = threads.submit(leases.close)
        eventually(lambda: len(gate.taken) == 20, "the others are back")
        gate.open()
        assert closing.result(15) == Returned(returned=25)
        extending.result(15)
    last = {entry["ReceiptHandle"]: entry["VisibilityTimeout"] for entry in gate.taken}
    assert len(last) == 25
    assert max(last.values()) <= 2
    eventually(lambda: read_depth(opened).visible == 25, "all messages back", seconds=30)


def test_an_extension_that_hangs_holds_up_the_end_until_its_leases_are_over_and_no_longer(
    opened: Queue, leases: LeaseKeeper, clock: Clock, wire: Wire
) -> None:
    messages = received(opened, 12)
    leases.add(messages[:2], asked=clock.now - 119)
    leases.add(messages[2:], asked=clock.now)
    with ThreadPoolExecutor(1) as threads, Gate(lambda entry: entry["VisibilityTimeout"] == 120) as gate:
        wire.on(CHANGE, gate)
        threads.submit(extend_due, leases)
        eventually(lambda: len(entries(wire)) == 2, "the extension is in progress")
        began = time.monotonic()
        assert leases.close() == Returned(returned=10, ended=2)
        assert 0.5 < time.monotonic() - began < 20


def test_an_extension_of_settled_messages_holds_up_no_end(
    opened: Queue, leases: LeaseKeeper, clock: Clock, wire: Wire
) -> None:
    messages = received(opened, 2)
    leases.add(messages, asked=clock.now - 50)
    with ThreadPoolExecutor(1) as threads, Gate() as gate:
        wire.on(CHANGE, gate)
        threads.submit(extend_due, leases)
        eventually(lambda: len(entries(wire)) == 2, "the extension is in progress")
        leases.settle(message.delivery_id for message in messages)
        began = time.monotonic()
        assert leases.close() == Returned()
        assert time.monotonic() - began < 10


def test_no_hand_back_is_asked_for_where_the_lease_is_over(
    opened: Queue, leases: LeaseKeeper, clock: Clock, wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    messages = received(opened, 12)
    leases.add(messages[:5], asked=clock.now - 120)
    leases.add(messages[5:], asked=clock.now - 119)
    assert leases.close() == Returned(returned=7, ended=5)
    assert {entry["ReceiptHandle"] for entry in entries(wire)} == {m.receipt_handle for m in messages[5:]}
    assert leases.lost == 5
    assert caplog.text == ""


def test_a_message_that_sqs_says_is_not_in_flight_has_come_back_by_itself(
    opened: Queue, leases: LeaseKeeper, clock: Clock, wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    messages = received(opened, 3)
    gone = messages[0].receipt_handle
    wire.on(CHANGE, failed_entries("MessageNotInflight", sender_fault=True, which=lambda e: e["ReceiptHandle"] == gone))
    leases.add(messages, asked=clock.now)
    assert leases.close() == Returned(returned=2, ended=1)
    assert caplog.text == ""


def test_every_message_that_is_held_is_handed_back_once_however_many_calls_fail(
    opened: Queue, leases: LeaseKeeper, clock: Clock, wire: Wire
) -> None:
    messages = received(opened, 25)
    wire.on(CHANGE, answers(refusal("ServiceUnavailable", 503)))
    leases.add(messages, asked=clock.now)
    assert leases.close() == Returned(failed=25)
    assert {entry["ReceiptHandle"] for entry in entries(wire)} == {m.receipt_handle for m in messages}


def test_an_endpoint_that_hangs_holds_up_the_end_until_the_last_lease_is_over_and_no_longer(
    opened: Queue, wire: Wire
) -> None:
    leases = LeaseKeeper(opened, visibility_seconds=120, calls_at_once=2)
    messages = received(opened, 45)
    with Gate() as gate:
        wire.on(CHANGE, gate)
        began = time.monotonic()
        leases.add(messages, asked=began - 116)
        assert leases.close() == Returned(ended=25, failed=20)
        assert 3 < time.monotonic() - began < 20
        asked = len(entries(wire))
    eventually(lambda: len(gate.taken) == 20, "the calls that hung are answered")
    assert len(entries(wire)) == asked == 20


def test_an_extension_that_is_refused_while_the_message_is_being_deleted_says_not_that_the_lease_was_lost(
    opened: Queue, leases: LeaseKeeper, clock: Clock, wire: Wire
) -> None:
    messages = received(opened, 3)
    ids = [message.delivery_id for message in messages]
    leases.add(messages, asked=clock.now)
    assert len(leases.handles(ids)) == 3
    wire.on(CHANGE, failed_entries("InvalidParameterValue", sender_fault=True))
    for seconds in (50, 10, 10):
        clock.now += seconds
        extend_due(leases)
    assert len(entries(wire)) == 3
    assert leases.lost == 0
    # The results of the deletes: one failed, and the others are confirmed, although late.
    assert leases.not_deleted(ids[:1]) == set()
    assert leases.lost == 1
    clock.now += 100
    extend_due(leases)
    leases.settle(ids[1:])
    assert leases.lost == 1


@pytest.mark.parametrize(("receives", "longest"), [(1, 2), (2, 4), (5, 32), (8, 256), (9, 300), (1000, 300)])
def test_the_back_off_doubles_with_each_delivery_is_jittered_and_ends_at_five_minutes(
    receives: int, longest: int
) -> None:
    drawn = {back_off_seconds(receives) for _ in range(300)}
    assert min(drawn) >= longest // 2
    assert max(drawn) <= longest <= MAX_BACK_OFF_SECONDS
    assert len(drawn) > 1
