"""Leases without a queue: which delivery is kept, which leases count as lost, how many parallel calls extend them."""

from collections.abc import Iterator
from math import ceil
from typing import Any

import pytest

from loginpipe.common.settings import Settings
from loginpipe.defs.resources import calls_at_once, most_kept
from loginpipe.logins.messages import Message
from loginpipe.sqs.client import Queue
from loginpipe.sqs.leases import LeaseKeeper
from loginpipe_tests.clock import Clock
from loginpipe_tests.wire import delivered

NO_CLIENT: Any = None


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def leases(clock: Clock) -> Iterator[LeaseKeeper]:
    """Yield a keeper of two-minute leases, whose own thread does nothing during a test."""
    leases = LeaseKeeper(Queue("logins", "", NO_CLIENT), visibility_seconds=120, calls_at_once=1, clock=clock)
    yield leases
    leases.settle(["m"])
    leases.close()


def delivery(receive_count: int) -> Message:
    """Return one of several deliveries of the same message."""
    return delivered("", message_id="m", receipt_handle=f"handle-{receive_count}", receive_count=receive_count)


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 3, 1), (1, 3, 2)])
def test_the_newest_receipt_handle_wins_in_whatever_order_threads_bring_them(
    leases: LeaseKeeper, clock: Clock, order: tuple[int, ...]
) -> None:
    for receive_count in order:
        leases.add([delivery(receive_count)], asked=clock.now)
    assert leases.handles(["m"]) == {"m": "handle-3"}
    assert (leases.held, leases.lost) == (1, 0)


def test_of_deliveries_with_the_same_receive_count_the_one_that_came_last_is_kept(
    leases: LeaseKeeper, clock: Clock
) -> None:
    for handle in ("first", "last"):
        leases.add([delivered("", message_id="m", receipt_handle=handle)], asked=clock.now)
    assert leases.handles(["m"]) == {"m": "last"}


def test_a_lease_that_is_over_when_its_message_comes_again_is_lost(leases: LeaseKeeper, clock: Clock) -> None:
    leases.add([delivery(1)], asked=clock.now)
    clock.now += 119
    leases.add([delivery(2)], asked=clock.now)
    assert leases.lost == 0
    clock.now += 120
    leases.add([delivery(3)], asked=clock.now)
    assert leases.lost == 1
    clock.now += 120
    leases.add([delivery(4)], asked=clock.now)
    assert leases.lost == 2


def test_a_lease_that_is_over_is_lost_too_when_an_older_delivery_comes(leases: LeaseKeeper, clock: Clock) -> None:
    leases.add([delivery(2)], asked=clock.now)
    clock.now += 120
    leases.add([delivery(1)], asked=clock.now)
    assert leases.lost == 1
    assert leases.handles(["m"]) == {"m": "handle-2"}
    leases.settle(["m"])
    assert leases.lost == 1


def test_a_message_whose_delete_failed_is_ours_until_its_lease_is_over(leases: LeaseKeeper, clock: Clock) -> None:
    leases.add([delivery(1)], asked=clock.now)
    clock.now += 119
    assert leases.not_deleted(["m", "not held"]) == {"m"}
    clock.now += 1
    assert leases.not_deleted(["m", "not held"]) == set()
    assert leases.lost == 1


CALL_SECONDS = 0.2


@pytest.mark.parametrize("visibility_seconds", [3, 4, 10, 30, 120, 43_200])
@pytest.mark.parametrize("batch_messages", [1, 670, 10_000, 50_000, 120_000])
def test_enough_calls_at_once_extend_a_whole_batch_in_a_third_of_the_visibility_timeout(
    visibility_seconds: int, batch_messages: int
) -> None:
    messages = min(batch_messages, most_kept(visibility_seconds))
    one_after_the_other = ceil(messages / 10 / calls_at_once(batch_messages, visibility_seconds))
    assert one_after_the_other * CALL_SECONDS <= visibility_seconds / 3


def test_calls_at_once_are_no_more_than_needed_and_no_more_than_a_process_can_have() -> None:
    assert calls_at_once(10_000, 120) == 8
    assert calls_at_once(20_000, 120) == 10
    assert calls_at_once(120_000, 120) == 60
    assert calls_at_once(120_000, 3) == 64


def test_at_the_usual_visibility_timeout_no_batch_is_too_large() -> None:
    usual = Settings()
    assert usual.batch_messages <= 120_000 <= most_kept(usual.visibility_seconds)
    assert most_kept(3) == 3200
