"""Deletes on the real endpoint: confirmed ones are settled, failed ones retried or reported, and nothing raises."""

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from threading import Event, Timer
from typing import Any, cast

import pytest

from loginpipe.common.settings import load_settings
from loginpipe.logins.messages import Message
from loginpipe.sqs.client import Queue, open_queue, read_depth
from loginpipe.sqs.deletion import NOT_TRIED, Deleter, Deletion, delete_messages
from loginpipe.sqs.leases import LeaseKeeper
from loginpipe_tests.clock import Clock
from loginpipe_tests.wire import (
    PLAIN_WEB_SERVER,
    Answer,
    Call,
    Forward,
    Wire,
    answers,
    delivered,
    eventually,
    failed_entries,
    first,
    received,
    received_again,
    refusal,
    success,
)

pytestmark = pytest.mark.usefixtures("either_client", "tried_once")

DELETE = "DeleteMessageBatch"


VISIBILITY_SECONDS = 120


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def leases(opened: Queue) -> Iterator[LeaseKeeper]:
    """Yield a lease keeper whose leases last longer than a test, as if extensions succeeded."""
    leases = LeaseKeeper(opened, visibility_seconds=VISIBILITY_SECONDS, calls_at_once=2, clock=lambda: 0)
    yield leases
    leases.close()


def delete(
    queue: Queue, leases: LeaseKeeper, messages: list[Message], clock: Clock, calls_at_once: int = 2
) -> Deletion:
    ids = [message.message_id for message in messages]
    return delete_messages(queue, leases, ids, calls_at_once=calls_at_once, clock=clock, pause=clock.pause)


def in_queue(queue: Queue) -> int:
    depth = read_depth(queue)
    return depth.visible + depth.in_flight


def test_messages_are_deleted_ten_a_call_and_no_longer_held(
    opened: Queue, leases: LeaseKeeper, wire: Wire, clock: Clock
) -> None:
    messages = received(opened, 23)
    leases.add(messages, asked=0)
    assert delete(opened, leases, messages[:22], clock) == Deletion(22, Counter())
    assert sorted(len(request["Entries"]) for request in wire.asked(DELETE)) == [2, 10, 10]
    assert leases.held == in_queue(opened) == 1
    assert clock.pauses == []


def test_nothing_to_delete_makes_no_call(opened: Queue, leases: LeaseKeeper, wire: Wire, clock: Clock) -> None:
    assert delete(opened, leases, [], clock) == Deletion(0, Counter())
    assert wire.asked(DELETE) == []


def test_problems_of_the_server_are_tried_again_with_growing_pauses_until_they_pass(
    opened: Queue, leases: LeaseKeeper, wire: Wire, clock: Clock
) -> None:
    messages = received(opened, 3)
    leases.add(messages, asked=0)
    faulty = messages[1].receipt_handle
    wire.on(
        DELETE,
        first(3, failed_entries("InternalError", sender_fault=False, which=lambda e: e["ReceiptHandle"] == faulty)),
    )
    assert delete(opened, leases, messages, clock) == Deletion(3, Counter())
    assert [[entry["ReceiptHandle"] for entry in request["Entries"]] for request in wire.asked(DELETE)[1:]] == [
        [faulty]
    ] * 3
    assert len(clock.pauses) == 3
    assert leases.held == in_queue(opened) == 0


def test_the_pauses_double_are_jittered_and_end_at_ten_seconds(
    opened: Queue, leases: LeaseKeeper, wire: Wire, clock: Clock
) -> None:
    messages = received(opened, 1)
    leases.add(messages, asked=0)
    wire.on(DELETE, failed_entries("InternalError", sender_fault=False))
    longest = [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10]
    drawn = set()
    for _ in range(2):
        clock.pauses.clear()
        delete(opened, leases, messages, clock)
        assert all(most / 2 <= pause <= most for pause, most in zip(clock.pauses, longest, strict=False))
        assert max(clock.pauses) <= 10
        drawn.add(clock.pauses[0])
    assert len(drawn) == 2


def test_problems_of_the_sender_are_tried_twice_and_then_reported_and_the_others_are_deleted(
    opened: Queue, leases: LeaseKeeper, wire: Wire, clock: Clock
) -> None:
    messages = received(opened, 4)
    leases.add(messages, asked=0)
    refused = {message.receipt_handle for message in messages[:2]}
    wire.on(
        DELETE,
        failed_entries("ReceiptHandleIsInvalid", sender_fault=True, which=lambda e: e["ReceiptHandle"] in refused),
    )
    assert delete(opened, leases, messages, clock) == Deletion(2, Counter({"ReceiptHandleIsInvalid": 2}))
    assert [len(request["Entries"]) for request in wire.asked(DELETE)] == [4, 2]
    assert leases.held == in_queue(opened) == 2


NOT_DELETED = {"Successful": [], "Failed": [{"Id": str(i), "Code": "RequestThrottled"} for i in range(2)]}

MAY_HEAL = {
    "500": (refusal("InternalError", 500), "InternalError"),
    "503": (refusal("ServiceUnavailable", 503), "ServiceUnavailable"),
    "502 of a proxy": (Answer(502, b"<html>bad gateway</html>"), "502"),
    "throttled": (refusal("RequestThrottled"), "RequestThrottled"),
    "throttled by another name": (refusal("ThrottlingException"), "ThrottlingException"),
    "the key throttled": (refusal("KmsThrottled"), "KmsThrottled"),
    "throttled with 403": (refusal("RequestThrottled", 403), "RequestThrottled"),
    "expired credentials": (refusal("ExpiredToken", 403), "ExpiredToken"),
    "expired credentials by another name": (refusal("ExpiredTokenException"), "ExpiredTokenException"),
    "entries throttled": (success(NOT_DELETED), "RequestThrottled"),
    "not confirmed": (success({"Successful": []}), "NotConfirmed"),
}
"""Answer → the code that is reported for two messages."""
FOR_GOOD = {
    "denied": (refusal("AccessDenied", 403), "AccessDenied"),
    "no queue": (refusal("QueueDoesNotExist"), "QueueDoesNotExist"),
    "refused": (refusal("InvalidAddress"), "InvalidAddress"),
    "a wrong clock": (refusal("RequestExpired"), "RequestExpired"),
    "a wrong key": (refusal("SignatureDoesNotMatch", 403), "SignatureDoesNotMatch"),
}


@pytest.mark.parametrize(("answer", "code"), list(MAY_HEAL.values()), ids=list(MAY_HEAL))
def test_what_may_heal_is_tried_for_a_visibility_timeout_and_then_reported(
    opened: Queue, leases: LeaseKeeper, wire: Wire, clock: Clock, *, answer: Answer, code: str
) -> None:
    messages = received(opened, 2)
    leases.add(messages, asked=0)
    wire.on(DELETE, answers(answer))
    assert delete(opened, leases, messages, clock) == Deletion(0, Counter({code: 2}))
    assert sum(clock.pauses) == pytest.approx(VISIBILITY_SECONDS)
    assert len(wire.asked(DELETE)) in {n * (1 + len(clock.pauses)) for n in (1, 2)}
    assert leases.held == in_queue(opened) == 2


@pytest.mark.parametrize(("answer", "code"), list(MAY_HEAL.values()), ids=list(MAY_HEAL))
def test_what_heals_after_a_minute_is_deleted(
    opened: Queue, leases: LeaseKeeper, wire: Wire, clock: Clock, *, answer: Answer, code: str
) -> None:
    messages = received(opened, 2)
    leases.add(messages, asked=0)
    healed = clock.now + 60
    wire.on(DELETE, lambda call, forward: answer if clock.now < healed else forward(call))
    assert delete(opened, leases, messages, clock) == Deletion(2, Counter()), code
    assert leases.held == in_queue(opened) == 0


@pytest.mark.parametrize(("answer", "code"), list(FOR_GOOD.values()), ids=list(FOR_GOOD))
def test_what_does_not_heal_is_tried_once_more_and_then_reported(
    opened: Queue,
    leases: LeaseKeeper,
    wire: Wire,
    clock: Clock,
    calls_of_a_failure: int,
    *,
    answer: Answer,
    code: str,
) -> None:
    messages = received(opened, 2)
    leases.add(messages, asked=0)
    wire.on(DELETE, answers(answer))
    assert delete(opened, leases, messages, clock) == Deletion(0, Counter({code: 2}))
    assert len(wire.asked(DELETE)) == 2 * calls_of_a_failure
    assert leases.held == in_queue(opened) == 2


def test_a_problem_of_the_sender_after_problems_of_the_server_is_tried_once_more_too(
    opened: Queue, leases: LeaseKeeper, wire: Wire, clock: Clock
) -> None:
    messages = received(opened, 1)
    leases.add(messages, asked=0)
    problems = [failed_entries("InternalError", sender_fault=False)] * 3
    problems += [failed_entries("ReceiptHandleIsInvalid", sender_fault=True)]
    wire.on(DELETE, lambda call, forward: problems.pop(0)(call, forward) if problems else forward(call))
    assert delete(opened, leases, messages, clock) == Deletion(1, Counter())


def test_what_is_no_longer_leased_is_not_tried_again(opened: Queue, wire: Wire, clock: Clock) -> None:
    leases = LeaseKeeper(opened, visibility_seconds=VISIBILITY_SECONDS, calls_at_once=1, clock=clock)
    messages = received(opened, 3)
    leases.add(messages[:1], asked=clock.now)
    leases.add(messages[1:], asked=clock.now - 100)
    wire.on(DELETE, failed_entries("InternalError", sender_fault=False))
    assert delete(opened, leases, messages, clock) == Deletion(0, Counter({"InternalError": 3}))
    sizes = [len(request["Entries"]) for request in wire.asked(DELETE)]
    assert sizes == sorted(sizes, reverse=True)
    assert set(sizes) == {3, 1}
    assert leases.lost == 2 + 1
    leases.close()


def test_an_endpoint_that_hangs_is_given_up_when_a_visibility_timeout_has_passed(
    opened: Queue, leases: LeaseKeeper, wire: Wire, clock: Clock, calls_of_a_failure: int
) -> None:
    def hangs(_call: Call, _forward: Forward) -> Answer:
        clock.now += 50 / calls_of_a_failure
        return refusal("ServiceUnavailable", 503)

    messages = received(opened, 100)
    leases.add(messages, asked=0)
    wire.on(DELETE, hangs)
    deletion = delete(opened, leases, messages, clock, calls_at_once=1)
    assert deletion == Deletion(0, Counter({"ServiceUnavailable": 30, NOT_TRIED: 70}))
    assert len(wire.asked(DELETE)) == 3 * calls_of_a_failure
    assert clock.pauses == []


def test_an_endpoint_that_hangs_later_leaves_the_code_that_was_answered_before(
    opened: Queue, leases: LeaseKeeper, wire: Wire, clock: Clock, calls_of_a_failure: int
) -> None:
    messages = received(opened, 30)
    leases.add(messages, asked=0)

    def hangs_later(_call: Call, _forward: Forward) -> Answer:
        if clock.pauses:
            clock.now += 200
        return refusal("ServiceUnavailable", 503)

    wire.on(DELETE, hangs_later)
    deletion = delete(opened, leases, messages, clock, calls_at_once=1)
    assert deletion == Deletion(0, Counter({"ServiceUnavailable": 30}))
    assert len(wire.asked(DELETE)) == (3 + 1) * calls_of_a_failure


def test_deletes_that_get_through_go_on_for_as_long_as_they_take(
    opened: Queue, leases: LeaseKeeper, wire: Wire, clock: Clock
) -> None:
    def slow(call: Call, forward: Forward) -> Answer:
        clock.now += 50
        return forward(call)

    messages = received(opened, 50)
    leases.add(messages, asked=0)
    wire.on(DELETE, slow)
    assert delete(opened, leases, messages, clock, calls_at_once=1) == Deletion(50, Counter())


def test_an_interruption_waits_for_no_call_that_hangs_and_makes_no_further_one(
    opened: Queue, leases: LeaseKeeper, wire: Wire, clock: Clock
) -> None:
    answered, done = Event(), Event()

    def interrupts(call: Call, forward: Forward) -> Answer:
        os.kill(os.getpid(), signal.SIGINT)
        assert answered.wait(60)
        answer = forward(call)
        done.set()
        return answer

    messages = received(opened, 30)
    leases.add(messages, asked=0)
    wire.on(DELETE, first(1, interrupts))
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        delete(opened, leases, messages, clock, calls_at_once=1)
    assert time.monotonic() - began < 20
    answered.set()
    assert done.wait(60)
    eventually(lambda: leases.held == 20, "the call that was in progress is confirmed")
    assert len(wire.asked(DELETE)) == 1


def test_an_interruption_of_a_pause_makes_no_further_call(
    opened: Queue, leases: LeaseKeeper, wire: Wire, clock: Clock
) -> None:
    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    messages = received(opened, 2)
    leases.add(messages, asked=0)
    wire.on(DELETE, failed_entries("InternalError", sender_fault=False))
    ids = [message.message_id for message in messages]
    with pytest.raises(KeyboardInterrupt):
        delete_messages(opened, leases, ids, calls_at_once=2, clock=clock, pause=interrupted)
    assert len(wire.asked(DELETE)) == 1


class RefusesEverything:
    """A stand-in for SQS, because a real endpoint cannot answer that many failures in a test's time."""

    def delete_message_batch(self, *, QueueUrl: str, Entries: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803
        assert QueueUrl
        return {"Failed": [{"Id": entry["Id"], "Code": "AccessDenied", "SenderFault": True} for entry in Entries]}


def test_giving_up_takes_a_time_that_grows_with_the_failures_and_not_with_their_square(clock: Clock) -> None:
    number = 20_000
    refusing = Queue("logins", "url", cast("Any", RefusesEverything()))
    leases = LeaseKeeper(refusing, visibility_seconds=VISIBILITY_SECONDS, calls_at_once=1, clock=clock)
    messages = [delivered("", message_id=str(i)) for i in range(number)]
    leases.add(messages, asked=clock.now)
    began = time.process_time()
    assert delete(refusing, leases, messages, clock) == Deletion(0, Counter({"AccessDenied": number}))
    # 0.2 s when this was written; 10 s and more if each message were searched for among all.
    assert time.process_time() - began < 3
    leases.settle(message.message_id for message in messages)
    leases.close()


def test_an_endpoint_that_went_away_is_reported_and_raises_nothing(queue: Queue, clock: Clock) -> None:
    with Wire(queue.client.meta.endpoint_url) as wire, pytest.MonkeyPatch.context() as patched:
        patched.setenv("AWS_ENDPOINT_URL", wire.url)
        patched.setattr("loginpipe.common.aws._ATTEMPTS", 1)
        cut_off = open_queue(queue.name, load_settings(), connections=16)
        leases = LeaseKeeper(cut_off, visibility_seconds=120, calls_at_once=2)
        messages = received(cut_off, 2)
        leases.add(messages, asked=0)
    deletion = delete(cut_off, leases, messages, clock)
    assert deletion.deleted == 0
    assert deletion.failures.total() == 2
    assert set(deletion.failures) <= {"EndpointConnectionError", "ConnectionClosedError"}
    leases.close()


def test_a_call_that_fails_once_takes_nothing_from_the_next_round(
    opened: Queue, leases: LeaseKeeper, wire: Wire, clock: Clock
) -> None:
    messages = received(opened, 12)
    leases.add(messages, asked=0)
    wire.on(DELETE, first(1, answers(refusal("ServiceUnavailable", 503))))
    assert delete(opened, leases, messages, clock) == Deletion(12, Counter())
    assert in_queue(opened) == 0


@pytest.mark.parametrize(
    "answer",
    [
        PLAIN_WEB_SERVER,
        Answer(200, b"{}"),
        Answer(200, b'{"Successful": []}'),
        Answer(200, b'{"Successful": [{"Id": "one"}, {}], "Failed": [{"Id": "0"}]}'),
        Answer(200, b"[]"),
        Answer(200, b"\xff\xfe"),
    ],
    ids=["a web server", "nothing", "none", "ids that no one gave", "a list", "no text"],
)
def test_what_no_answer_confirms_is_not_counted_as_deleted(
    opened: Queue, leases: LeaseKeeper, wire: Wire, clock: Clock, answer: Answer
) -> None:
    messages = received(opened, 2)
    leases.add(messages, asked=0)
    wire.on(DELETE, answers(answer))
    deletion = delete(opened, leases, messages, clock)
    assert deletion.deleted == 0
    assert deletion.failures.total() == 2
    assert leases.held == 2


def test_a_message_that_is_not_held_is_not_counted_as_deleted(
    opened: Queue, leases: LeaseKeeper, wire: Wire, clock: Clock
) -> None:
    messages = received(opened, 2)
    leases.add(messages, asked=0)
    delete(opened, leases, messages[:1], clock)
    assert delete(opened, leases, messages, clock).deleted == 1
    assert len(wire.asked(DELETE)) == 2


def test_a_message_received_again_is_deleted_with_its_newest_handle(
    opened: Queue, leases: LeaseKeeper, wire: Wire, clock: Clock
) -> None:
    (old,) = received(opened, 1, visibility_seconds=0)
    leases.add([old], asked=0)
    (new,) = received_again(opened, 1)
    leases.add([new], asked=0)
    assert delete(opened, leases, [old], clock) == Deletion(1, Counter())
    assert wire.asked(DELETE)[0]["Entries"] == [{"Id": "0", "ReceiptHandle": new.receipt_handle}]
    assert in_queue(opened) == 0


def test_a_message_received_again_between_two_rounds_is_deleted_with_its_newest_handle(
    opened: Queue, leases: LeaseKeeper, wire: Wire
) -> None:
    (old,) = received(opened, 1, visibility_seconds=0)
    leases.add([old], asked=0)
    wire.on(DELETE, first(1, failed_entries("InternalError", sender_fault=False)))

    def receive_meanwhile(_: float) -> None:
        leases.add(received_again(opened, 1), asked=0)

    deletion = delete_messages(opened, leases, [old.message_id], calls_at_once=1, pause=receive_meanwhile)
    assert deletion == Deletion(1, Counter())
    assert in_queue(opened) == 0


# --- after it is told to stop ---


def test_once_it_is_told_to_stop_no_further_call_is_made_and_the_rest_is_reported(
    opened: Queue, leases: LeaseKeeper, wire: Wire, clock: Clock
) -> None:
    stop = Event()

    def stops(call: Call, forward: Forward) -> Answer:
        stop.set()
        return forward(call)

    messages = received(opened, 30)
    leases.add(messages, asked=0)
    wire.on(DELETE, stops)
    ids = [message.message_id for message in messages]
    deletion = delete_messages(opened, leases, ids, calls_at_once=1, clock=clock, pause=clock.pause, stop=stop)
    assert deletion == Deletion(10, Counter({NOT_TRIED: 20}))
    assert len(wire.asked(DELETE)) == 1


def test_what_failed_is_not_tried_again_once_it_is_told_to_stop(
    opened: Queue, leases: LeaseKeeper, wire: Wire, clock: Clock, calls_of_a_failure: int
) -> None:
    stop = Event()

    def stops(_call: Call, _forward: Forward) -> Answer:
        stop.set()
        return refusal("ServiceUnavailable", 503)

    messages = received(opened, 3)
    leases.add(messages, asked=0)
    wire.on(DELETE, stops)
    ids = [message.message_id for message in messages]
    deletion = delete_messages(opened, leases, ids, calls_at_once=1, clock=clock, pause=clock.pause, stop=stop)
    assert deletion == Deletion(0, Counter({"ServiceUnavailable": 3}))
    assert len(wire.asked(DELETE)) == calls_of_a_failure
    assert clock.pauses == []


# --- batch after batch, in the background -----------------------------------------------------------------------------


class Held:
    """Blocks deletes until it is opened, at the latest at the end of the context."""

    def __init__(self) -> None:
        self._open = Event()

    def __enter__(self) -> "Held":
        return self

    def __exit__(self, *_: object) -> None:
        self.open()

    def __call__(self, call: Call, forward: Forward) -> Answer:
        assert self._open.wait(60)
        return forward(call)

    def open(self) -> None:
        self._open.set()


def submitted(deleter: Deleter, queue: Queue, leases: LeaseKeeper, *batches: tuple[str, int]) -> None:
    """Receive batches, given as an id and a number of messages, and submit their deletes."""
    for batch_id, number in batches:
        messages = received(queue, number)
        leases.add(messages, asked=0)
        deleter.submit(batch_id, [message.message_id for message in messages], calls_at_once=2)


def test_batches_are_deleted_in_the_background_and_returned_in_their_order_each_once(
    opened: Queue, leases: LeaseKeeper, wire: Wire
) -> None:
    deleter = Deleter(opened, leases)
    with Held() as held:
        wire.on(DELETE, held)
        submitted(deleter, opened, leases, ("one", 13), ("two", 3))
        assert deleter.finished() == []
        assert deleter.finished(max_pending=2) == []
        Timer(0.3, held.open).start()
        first = deleter.finished(max_pending=1)
    assert first[0] == ("one", Deletion(13, Counter()))
    assert first[1:] + deleter.close(wait_seconds=20) == [("two", Deletion(3, Counter()))]
    assert leases.held == in_queue(opened) == 0


def test_whoever_waits_for_deletes_may_give_up(opened: Queue, leases: LeaseKeeper, wire: Wire) -> None:
    deleter = Deleter(opened, leases)
    with Held() as held:
        wire.on(DELETE, held)
        submitted(deleter, opened, leases, ("one", 3), ("two", 3))
        began = time.monotonic()
        assert deleter.finished(max_pending=1, give_up=lambda: time.monotonic() - began > 0.3) == []
        assert time.monotonic() - began < 5
    assert [batch_id for batch_id, _ in deleter.close(wait_seconds=20)] == ["one", "two"]


def test_closing_ends_pauses_and_reports_what_failed(opened: Queue, leases: LeaseKeeper, wire: Wire) -> None:
    deleter = Deleter(opened, leases)
    wire.on(DELETE, answers(refusal("ServiceUnavailable", 503)))
    submitted(deleter, opened, leases, ("one", 3), ("two", 2))
    eventually(lambda: len(wire.asked(DELETE)) >= 2, "the first attempt")
    began = time.monotonic()
    closed = deleter.close(wait_seconds=0.2)
    assert time.monotonic() - began < 5
    assert closed == [
        ("one", Deletion(0, Counter({"ServiceUnavailable": 3}))),
        ("two", Deletion(0, Counter({NOT_TRIED: 2}))),
    ]
    assert leases.held == 5


def test_closing_waits_for_no_call_that_hangs_and_makes_no_further_one(
    opened: Queue, leases: LeaseKeeper, wire: Wire
) -> None:
    deleter = Deleter(opened, leases)
    with Held() as held:
        wire.on(DELETE, held)
        submitted(deleter, opened, leases, ("one", 40), ("two", 2))
        eventually(lambda: len(wire.asked(DELETE)) == 2, "two calls")
        began = time.monotonic()
        assert deleter.close(wait_seconds=0.2) == []
        assert time.monotonic() - began < 10
    eventually(lambda: leases.held == 22, "the calls that were in flight are confirmed")
    assert len(wire.asked(DELETE)) == 2
