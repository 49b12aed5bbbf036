"""When a queue counts as at its limit: messages wait, and as many are in flight as SQS allows."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loginpipe.defs.ingest.sensor import Decision, decide
from loginpipe.monitoring.reports import History
from loginpipe.sqs.client import IN_FLIGHT_LIMIT_REACHED, MAX_IN_FLIGHT, Depth

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)

moderate = settings(max_examples=200, deadline=None, print_blob=True)


def decision(visible: int, in_flight: int, *, active: int = 0, history: History | None = None) -> Decision:
    return decide(
        Depth(visible, in_flight, delayed=0),
        queue="logins",
        active=[timedelta(seconds=30)] * active,
        history=history or History(),
        now=NOW,
        batch_messages=100,
        run_seconds=600,
        max_runs=4,
    )


def test_the_limit_is_sqs_own() -> None:
    assert MAX_IN_FLIGHT == 120_000


@pytest.mark.parametrize(
    ("visible", "in_flight", "at_limit"),
    [
        # At the limit, or so close to it that the approximate counts do not differ.
        (1, 120_000, True),
        (1, 114_000, True),
        (1, 113_999, False),
        (1, 119_999, True),
        (1, 150_000, True),
        (10**7, 120_000, True),
        # Nothing waits: the consumers are only busy.
        (0, 120_000, False),
        (0, 114_000, False),
        (0, 0, False),
        # Many messages wait and can be received.
        (10**7, 0, False),
        (10**7, 100_000, False),
    ],
)
def test_a_queue_is_full_where_messages_wait_and_as_many_are_in_flight_as_sqs_allows(
    visible: int, in_flight: int, at_limit: bool
) -> None:
    assert Depth(visible, in_flight, delayed=0).at_in_flight_limit is at_limit


@pytest.mark.parametrize("delayed", [0, 10**6])
def test_messages_that_their_sender_delayed_are_not_waiting(delayed: int) -> None:
    assert not Depth(0, 120_000, delayed).at_in_flight_limit
    assert Depth(1, 120_000, delayed).at_in_flight_limit


@moderate
@given(visible=st.integers(0, 10**7), in_flight=st.integers(0, 200_000), more=st.integers(0, 10**5))
def test_a_full_queue_stays_so_when_more_waits_or_is_in_flight(visible: int, in_flight: int, more: int) -> None:
    if Depth(visible, in_flight, 0).at_in_flight_limit:
        assert Depth(visible + more, in_flight, 0).at_in_flight_limit
        assert Depth(visible, in_flight + more, 0).at_in_flight_limit


def test_the_sensor_starts_nothing_on_a_full_queue_and_names_the_stall() -> None:
    made = decision(1_250, 120_000)
    assert made.runs == 0
    assert made.reason == f"queue 'logins': 1,250 waiting, 120,000 in flight, 0 delayed; {IN_FLIGHT_LIMIT_REACHED}"


@pytest.mark.parametrize(
    ("in_flight", "runs"), [(113_999, 3), (114_000, 0), (120_000, 0)], ids=["below", "near enough", "at the limit"]
)
def test_the_sensor_goes_by_the_same_limit(in_flight: int, runs: int) -> None:
    assert decision(1_250, in_flight).runs == runs


def test_a_limit_is_named_whatever_else_is_the_matter() -> None:
    failed = History(3, NOW - timedelta(seconds=1))
    for made in (decision(1_250, 120_000, active=4), decision(1_250, 120_000, history=failed)):
        assert made.runs == 0
        assert IN_FLIGHT_LIMIT_REACHED in made.reason


def test_a_busy_queue_on_which_nothing_waits_is_no_stall() -> None:
    made = decision(0, 120_000)
    assert made.runs == 0
    assert made.reason.endswith("; nothing to receive")


def test_the_limit_says_in_one_line_what_it_is_and_where_to_look() -> None:
    assert "\n" not in IN_FLIGHT_LIMIT_REACHED
    for words in ("in-flight limit reached", "messages wait", "look for a consumer that receives and does not delete"):
        assert words in IN_FLIGHT_LIMIT_REACHED
