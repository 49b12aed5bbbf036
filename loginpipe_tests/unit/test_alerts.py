"""When an alert begins and ends, what a channel still has to receive, and the texts."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from loginpipe.common.errors import SettingError
from loginpipe.common.settings import load_settings
from loginpipe.monitoring.alert_delivery import channels, subject, text
from loginpipe.monitoring.alert_rules import CHECK, KINDS, Limits, conditions, kind
from loginpipe.monitoring.alert_state import MAX_PENDING, Event, Outbox, State, after_check, failed
from loginpipe.monitoring.reports import History, QueueSeen, Seen, evaluate
from loginpipe.postgres.batches import RecentBatches
from loginpipe.sqs.client import Depth
from loginpipe.sqs.dead_letters import DeadLetterDepth, Owners

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
LOOK = timedelta(seconds=30)
NO_DELAYS = (0,) * 14


def after(looks: Sequence[str | bool | None], channel: str = "webhook") -> list[tuple[str, str]]:
    """Return what a channel receives over checks of one condition. Each state is stored in the cursor between checks.

    Args:
        looks: the message of each check; None if the condition does not hold, False if that is not known.
    """
    state, told = State(), []
    for number, says in enumerate(looks):
        found = {} if says is False else {"dead-letters": says}
        state = after_check(state, found, [channel], NOW + number * LOOK)  # type: ignore[arg-type]
        told += [(event.what, event.message) for event in state.outboxes[channel].pending]
        state = State.model_validate_json(state.model_copy(update={"outboxes": {channel: Outbox()}}).model_dump_json())
    return told


BEGINS, OVER = ("begins", "2"), ("over", "")


@pytest.mark.parametrize(
    ("looks", "told"),
    [
        (["1"], []),
        (["1", "2"], [BEGINS]),
        (["1", "2", "3", "4"], [BEGINS]),
        (["1", None, "1", None], []),
        (["1", "2", None], [BEGINS]),
        (["1", "2", None, None], [BEGINS, OVER]),
        (["1", "2", None, "3", None, "4", None], [BEGINS]),
        (["1", "2", None, None, None, "1", "2"], [BEGINS, OVER, BEGINS]),
        (["1", False, "2"], [BEGINS]),
        (["1", "2", False, False, None, False, None], [BEGINS, OVER]),
    ],
    ids=[
        "once", "twice", "lasts", "flaps", "gone once", "gone twice", "flaps while told", "again", "not known",
        "not known while told",
    ],
)  # fmt: skip
def test_it_is_told_on_the_second_look_and_over_on_the_second_without(
    looks: list[str | bool | None], told: list[tuple[str, str]]
) -> None:
    assert after(looks) == told


def test_an_alert_is_since_the_first_look_and_over_since_the_first_without() -> None:
    state = State()
    for number, says in enumerate(["1", "2", None, None]):
        state = after_check(state, {"dead-letters": says}, ["webhook"], NOW + number * LOOK)
    begins, over = state.outboxes["webhook"].pending
    assert begins.since == over.since == NOW
    assert over.until == NOW + 2 * LOOK
    assert state.episodes == {}


def test_a_channel_that_is_away_for_days_is_told_the_newest_and_how_many_it_missed() -> None:
    state = State()
    for number in range(2 * MAX_PENDING + 8):
        says = "1" if number % 4 < 2 else None
        state = after_check(state, {"dead-letters": says}, ["webhook"], NOW + number * LOOK)
    outbox = state.outboxes["webhook"]
    assert (len(outbox.pending), outbox.left_out) == (MAX_PENDING, 4)
    assert text("logins", outbox).startswith("4 older alerts could not be delivered and were dropped.\n\n")


def test_a_channel_that_is_unset_is_forgotten_and_one_that_is_set_is_told_of_what_lasts() -> None:
    state = State()
    for number in range(2):
        state = after_check(state, {"delay": "1"}, ["webhook"], NOW + number * LOOK)
    state = after_check(state, {"delay": "1"}, ["sns"], NOW + 2 * LOOK)
    assert list(state.outboxes) == ["sns"]
    assert [event.condition for event in state.outboxes["sns"].pending] == ["delay"]


def test_deliveries_that_fail_are_tried_at_the_next_look_and_then_less_and_less_often() -> None:
    outbox, pauses = Outbox(), []
    for _ in range(8):
        outbox = failed(outbox, NOW)
        assert outbox.next_try is not None
        pauses.append((outbox.next_try - NOW).total_seconds())
    assert pauses == [0, 60, 120, 240, 480, 900, 900, 900]


# --- the conditions ---


EMPTY = Depth(0, 0, 0)


def seen(
    depth: Depth = EMPTY,
    dead: DeadLetterDepth | None = None,
    runs: RecentBatches | None = None,
    failures: int = 0,
) -> Seen:
    recent = runs or RecentBatches(NOW, 0, 0, NO_DELAYS)
    fresh = evaluate(
        depth, last_finished=None, waiting_since=NOW - timedelta(hours=1), now=NOW, max_wait=timedelta(minutes=9)
    )
    return Seen(QueueSeen(depth, dead), recent, fresh, History(failures, NOW), {"only_tokens of masked_logins": True})


LIMITS = Limits(0.05, 900)


@pytest.mark.parametrize(
    ("look", "holds"),
    [
        (seen(), set()),
        (seen(dead=DeadLetterDepth(0, 0, 0)), set()),
        (seen(dead=DeadLetterDepth(0, 1, 0)), {"dead-letters"}),
        (seen(dead=DeadLetterDepth(3, 0, 0, 1, Owners(ours=1, others=2))), {"dead-letters"}),
        (seen(dead=DeadLetterDepth(3, 0, 0, 1, Owners(ours=0, others=3))), set()),
        (seen(failures=1), set()),
        (seen(failures=2), {"runs-failing"}),
        (seen(Depth(1, 0, 0)), {"stuck"}),
        (seen(Depth(1, 120_000, 0)), {"in-flight-limit-reached"}),
        (seen(runs=RecentBatches(NOW, 100, 5, NO_DELAYS)), set()),
        (seen(runs=RecentBatches(NOW, 100, 6, NO_DELAYS)), {"reject-rate"}),
        (seen(runs=RecentBatches(NOW, 19, 19, NO_DELAYS)), set()),
        (seen(runs=RecentBatches(NOW, 0, 0, (*(0,) * 11, 20, 0, 0))), {"delay"}),
        (seen(runs=RecentBatches(NOW, 0, 0, (*(0,) * 10, 20, 0, 0, 0))), set()),
        (seen(runs=RecentBatches(NOW, 0, 0, (*(0,) * 13, 19))), set()),
    ],
    ids=[
        "nothing", "no dead letters", "dead letters", "ours and others'", "others' dead letters", "one failure",
        "failures", "stuck", "limit", "some rejects", "rejects", "few messages", "late", "in time", "few logins",
    ],
)  # fmt: skip
def test_what_was_seen_makes_these_conditions(look: Seen, holds: set[str]) -> None:
    found = conditions(look, LIMITS)
    assert {name for name, says in found.items() if says is not None} == holds
    assert {name for name in found if not name.startswith(CHECK)} == set(KINDS), "each is known"


def test_what_a_source_would_have_told_is_not_known_while_it_does_not_answer() -> None:
    of_queue = Seen("away", RecentBatches(NOW, 0, 0, NO_DELAYS), None, History(), {})
    of_runs = Seen(QueueSeen(Depth(5, 0, 0), None), "away", None, History(), {})
    known = {"queue-unreachable", "database-unreachable", "runs-failing"}
    assert set(conditions(of_queue, LIMITS)) == known | {"reject-rate", "delay"}
    assert set(conditions(of_runs, LIMITS)) == known | {"in-flight-limit-reached", "dead-letters"}
    assert conditions(of_queue, LIMITS)["queue-unreachable"] == "away"


# --- the texts ---


def test_every_kind_says_what_to_do_and_where_to_read_on() -> None:
    for name in [*KINDS, f"{CHECK}only_tokens of masked_logins"]:
        of = kind(name)
        event = Event(what="begins", condition=name, message="seen", since=NOW)
        lines = text("logins", Outbox(pending=(event,))).splitlines()
        assert lines == [
            f"loginpipe, queue logins: {of.title}", "Seen: seen.", "Since: 2026-11-21 12:00 UTC.", f"Do: {of.todo}",
            f"Runbook: docs/operations.md#{of.anchor}",
        ]  # fmt: skip
        assert " " not in of.anchor
        assert "_" not in of.anchor


def test_a_subject_is_one_line_that_sns_takes() -> None:
    events = [Event(what="over", condition=name, message="", since=NOW, until=NOW) for name in KINDS]
    assert subject("logins", events[:1]) == "loginpipe, logins: resolved: the queue cannot be used"
    assert subject("logins", events) == "loginpipe, logins: resolved: the queue cannot be used (and 7 more)"
    assert len(subject("q" * 80, events)) <= 100


def test_a_condition_that_an_older_cursor_names_and_no_one_knows_any_more_can_still_be_told() -> None:
    assert kind("of-old").anchor == "of-old"


# --- the settings ---


@pytest.mark.parametrize(
    ("variable", "value", "environment"),
    [
        ("LOGINPIPE_ALERT_WEBHOOK_URL", "hooks.example.com/geheim", "local"),
        ("LOGINPIPE_ALERT_WEBHOOK_URL", "ftp://hooks.example.com/geheim", "local"),
        ("LOGINPIPE_ALERT_WEBHOOK_URL", "https:///geheim", "local"),
        ("LOGINPIPE_ALERT_WEBHOOK_URL", "https://hooks.example.com:port/geheim", "local"),
        ("LOGINPIPE_ALERT_WEBHOOK_URL", "https://hooks.example.com/ge\nheim", "local"),
        ("LOGINPIPE_ALERT_WEBHOOK_URL", "http://hooks.example.com/geheim", "production"),
        ("LOGINPIPE_ALERT_SNS_TOPIC", "geheim", "local"),
        ("LOGINPIPE_ALERT_SNS_TOPIC", "arn:aws:sns:eu-west-1:123456789012:geheim.fifo", "local"),
        ("LOGINPIPE_MAX_DELAY_SECONDS", "3601", "local"),
    ],
    ids=["no scheme", "scheme", "no host", "port", "line break", "not https", "no ARN", "FIFO", "too long"],
)
def test_a_wrong_address_is_named_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, environment: str
) -> None:
    monkeypatch.setenv("LOGINPIPE_ENV", environment)
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingError, match=f"^invalid setting: {variable}: ") as caught:
        load_settings()
    assert "geheim" not in str(caught.value)


def test_the_webhooks_url_is_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGINPIPE_ENV", "production")
    monkeypatch.setenv("LOGINPIPE_ALERT_WEBHOOK_URL", "https://hooks.example.com/geheim")
    monkeypatch.setenv("LOGINPIPE_ALERT_SNS_TOPIC", "arn:aws:sns:eu-west-1:123456789012:on-call")
    settings = load_settings()
    hook, topic = channels(settings)
    assert hook.name == "webhook"
    assert "geheim" not in f"{settings!r} {hook!r} {hook.place}"
    assert (hook.place, topic.place) == ("webhook at hooks.example.com", "SNS topic on-call in eu-west-1")
