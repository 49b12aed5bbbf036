"""Quiet, working or stuck: determined by a queue, by when batches were finished, and by since when messages wait."""

from datetime import UTC, datetime, timedelta

import pytest

from loginpipe.common.settings import Settings
from loginpipe.monitoring.reports import evaluate, longest_wait
from loginpipe.sqs.client import Depth

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
MAX_WAIT = timedelta(minutes=15)


def ago(minutes: float | None) -> datetime | None:
    return None if minutes is None else NOW - timedelta(minutes=minutes)


@pytest.mark.parametrize(
    ("visible", "in_flight", "finished", "since", "state"),
    [
        (0, 0, None, None, "quiet"),
        (0, 0, 60 * 24, None, "quiet"),
        (0, 0, 60 * 24, 60, "quiet"),
        (5, 0, None, None, "working"),
        (5, 0, 60 * 24, None, "working"),
        (5, 0, 60 * 24, 15, "working"),
        (5, 0, 60 * 24, 15.1, "stuck"),
        (5, 0, None, 15.1, "stuck"),
        (5, 0, 1, 600, "working"),
        (5, 0, 15.1, 600, "stuck"),
        (0, 5, 15.1, 600, "stuck"),
        (0, 5, 14.9, 600, "working"),
        (37, 120_000, 1, 1, "stuck"),
        (0, 120_000, 1, 1, "working"),
    ],
    ids=[
        "empty, never a run", "empty for a day", "emptied by someone else", "first look", "after a quiet day",
        "waiting, not too long", "waiting too long", "waiting too long, never a run", "a backlog that drains",
        "no batch is finished", "a run that hangs", "an active run", "limit", "as many in flight, and none waiting",
    ],
)  # fmt: skip
def test_a_quiet_queue_is_not_a_stuck_pipeline(
    visible: int, in_flight: int, finished: float | None, since: float | None, state: str
) -> None:
    found = evaluate(
        Depth(visible, in_flight, 0), last_finished=ago(finished), waiting_since=ago(since), now=NOW, max_wait=MAX_WAIT
    )
    assert found.state == state
    assert (found.waiting_since is None) == (state == "quiet")
    if state != "quiet":
        assert found.waiting_since == (ago(since) or NOW)


def test_messages_that_are_delayed_by_their_sender_are_not_there_yet() -> None:
    found = evaluate(Depth(0, 0, 9), last_finished=None, waiting_since=ago(60), now=NOW, max_wait=MAX_WAIT)
    assert found.state == "quiet"


def test_what_it_says_names_since_when_and_the_newest_batch() -> None:
    found = evaluate(Depth(5, 1, 0), last_finished=ago(20), waiting_since=ago(30), now=NOW, max_wait=MAX_WAIT)
    assert found.message == (
        "5 waiting, 1 in flight, 0 delayed; messages have been waiting since 2026-11-21 11:30:00 UTC, and the newest "
        "batch finished at 2026-11-21 11:40:00 UTC"
    )


def test_a_limit_shorter_than_a_batch_takes_does_not_make_every_queue_stuck() -> None:
    assert longest_wait(Settings()) == timedelta(minutes=15)
    assert longest_wait(Settings(max_delay_seconds=10, linger_seconds=20)) == timedelta(minutes=1)
