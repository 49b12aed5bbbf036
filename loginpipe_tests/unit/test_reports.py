"""The reports of monitoring_sensor on `freshness` and `no_dead_letters`: what was seen, and what is remembered."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from loginpipe.monitoring.reports import (
    Freshness,
    History,
    Memory,
    QueueSeen,
    Seen,
    evaluate_dead_letters,
    news,
    read_memory,
)
from loginpipe.sqs.dead_letters import DeadLetterDepth

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
EARLIER = NOW - timedelta(minutes=30)
QUIET = Freshness("quiet", "the queue is empty", None)
WORKING = Freshness("working", "1 waiting", EARLIER)
STUCK = Freshness("stuck", "1 waiting", EARLIER)
EMPTY = DeadLetterDepth(0, 0, 0)
KNOWN = Memory(fresh=True, fresh_at=EARLIER, dead_letters="Empty")


def seen(fresh: Freshness | None = QUIET, dead: DeadLetterDepth | None = EMPTY, queue: str | None = None) -> Seen:
    return Seen(queue or QueueSeen(EMPTY, dead), "not read", fresh, History(), {})


@pytest.mark.parametrize(
    ("fresh", "memory", "reported"),
    [
        (QUIET, Memory(), True),
        (QUIET, KNOWN, None),
        (WORKING, KNOWN, None),
        (STUCK, KNOWN, False),
        (STUCK, KNOWN.model_copy(update={"fresh": False}), None),
        (QUIET, KNOWN.model_copy(update={"fresh": False}), True),
        (QUIET, KNOWN.model_copy(update={"fresh_at": NOW - timedelta(hours=1)}), True),
        (None, Memory(), None),
    ],
    ids=["first", "as before", "quiet and working", "stuck", "still stuck", "no longer", "an hour ago", "not known"],
)
def test_freshness_is_news_when_it_changes_and_once_an_hour(
    fresh: Freshness | None, memory: Memory, reported: bool | None
) -> None:
    news_of, _, after = news(seen(fresh), memory, NOW)
    assert (news_of.passed if news_of else None) is reported
    assert after.fresh_at == (memory.fresh_at if reported is None else NOW)
    assert news(seen(fresh), after, NOW)[0] is None, "it is told once"


def test_while_a_source_does_not_answer_nothing_is_forgotten() -> None:
    memory = KNOWN.model_copy(update={"waiting_since": EARLIER})
    fresh, dead_letters, after = news(seen(None), memory, NOW)
    assert (fresh, dead_letters, after) == (None, None, memory)


def test_since_when_messages_wait_is_remembered_until_none_do() -> None:
    _, _, after = news(seen(WORKING), KNOWN, NOW)
    assert after.waiting_since == EARLIER
    assert news(seen(QUIET), after, NOW)[2].waiting_since is None


@pytest.mark.parametrize(
    ("found", "passed"),
    [
        ({}, None),
        ({"dead": DeadLetterDepth(0, 1, 0)}, False),
        ({"dead": None}, False),
        ({"queue": "queue 'logins' cannot be asked"}, False),
    ],
    ids=["as before", "filled", "no such queue", "cannot be asked"],
)
def test_dead_letters_are_news_when_their_words_change(found: dict[str, Any], passed: bool | None) -> None:
    _, dead_letters, after = news(seen(**found), KNOWN, NOW)
    assert (dead_letters.passed if dead_letters else None) is passed
    assert news(seen(**found), after, NOW)[1] is None, "it is told once"


def test_the_words_of_a_dead_letter_queue_say_what_to_do() -> None:
    assert "`loginpipe dlq redrive`" in evaluate_dead_letters(DeadLetterDepth(2, 0, 0)).message
    assert evaluate_dead_letters("away").message == "away"
    assert evaluate_dead_letters(EMPTY).passed


@pytest.mark.parametrize("cursor", [None, "", "typed by somebody", "[]", '{"alerts": 3}'])
def test_a_cursor_that_is_none_is_a_new_beginning(cursor: str | None) -> None:
    assert read_memory(cursor) == Memory()


def test_the_memory_goes_through_its_cursor() -> None:
    memory = KNOWN.model_copy(update={"waiting_since": EARLIER})
    assert read_memory(memory.model_dump_json()) == memory
