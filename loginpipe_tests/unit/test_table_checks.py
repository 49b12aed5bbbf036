"""How days and runs are evaluated: limits, previous days, and the ledger of a day."""

from datetime import date, timedelta

import pytest

from loginpipe.defs.ingest.checks import delay_within_limit
from loginpipe.logins.delays import DELAY_BOUNDS
from loginpipe.monitoring.anomalies import delayed, evaluate_null_locales, evaluate_volume
from loginpipe.postgres.insights import DayCounts
from loginpipe.postgres.ledger import LedgerDay

SATURDAY = date(2026, 11, 21)


def days(*logins: int, nulls: float = 0.3) -> dict[date, DayCounts]:
    """Return consecutive days, of which the last is Saturday."""
    first = SATURDAY - timedelta(days=len(logins) - 1)
    return {first + timedelta(days=n): DayCounts(number, int(nulls * number)) for n, number in enumerate(logins)}


WEEKDAYS_AND_WEEKENDS = (300, 300, 1000, 1000, 1000, 1000, 1000) * 2


@pytest.mark.parametrize(
    ("counts", "passed"),
    [
        (days(*[1000] * 14, 1000), True),
        (days(*[1000] * 14, 501), True),
        (days(*[1000] * 14, 499), False),
        (days(*[1000] * 14, 1501), False),
        (days(*[1000] * 14, 0), False),
        (days(*[1000] * 3, 10), False),
        (days(*[1000] * 2, 10), True),
        (days(*[99] * 14, 0), True),
        (days(*[99] * 14, 100_000), True),
        (days(*[200, 4000, 600, 2500, 1000, 300, 5000] * 2, 4500), True),
        (days(*WEEKDAYS_AND_WEEKENDS, 310), True),
        (days(*WEEKDAYS_AND_WEEKENDS, 100), False),
        (days(*[*[1000] * 13, 0], 1000), True),
    ],
    ids=[
        "as ever", "half as many", "fewer than half", "more than half as many again", "none", "three days are enough",
        "two are not", "few logins", "few logins until now", "days that differ by themselves", "a weekend",
        "a weekend with fewer still", "after an outage",
    ],
)  # fmt: skip
def test_a_day_is_compared_with_the_trailing_days(counts: dict[date, DayCounts], passed: bool) -> None:
    assert evaluate_volume(counts, SATURDAY).passed is passed


def test_a_day_that_was_never_counted_had_no_logins_when_it_is_evaluated_and_says_nothing_as_a_trailing_one() -> None:
    counts = days(*[1000] * 14, 1000)
    del counts[SATURDAY - timedelta(days=1)]
    assert evaluate_volume(counts, SATURDAY).figures["trailing_days"] == 13
    del counts[SATURDAY]
    assert not evaluate_volume(counts, SATURDAY).passed
    assert evaluate_volume({}, SATURDAY).message == (
        "2026-11-21: 0 logins; not evaluated: 0 trailing days are known, fewer than 3"
    )


@pytest.mark.parametrize(
    ("logins", "nulls", "passed"),
    [(1000, 300, True), (1000, 351, True), (1000, 360, False), (1000, 0, False), (99, 99, True), (100, 44, True),
     (100, 60, False), (0, 0, True)],
    ids=["as ever", "within", "more", "none", "few logins", "chance", "more than chance", "no logins"],
)  # fmt: skip
def test_the_share_without_a_locale_may_differ_by_what_chance_and_days_make_of_it(
    logins: int, nulls: int, passed: bool
) -> None:
    counts = days(*[1000] * 14, 0) | {SATURDAY: DayCounts(logins, nulls)}
    assert evaluate_null_locales(counts, SATURDAY).passed is passed


def test_days_whose_share_differs_by_itself_allow_as_much() -> None:
    first = SATURDAY - timedelta(days=14)
    shares = [0.1, 0.5, 0.3, 0.2, 0.4, 0.25, 0.35] * 2
    counts = {first + timedelta(days=n): DayCounts(1000, int(1000 * share)) for n, share in enumerate(shares)}
    assert evaluate_null_locales(counts | {SATURDAY: DayCounts(1000, 600)}, SATURDAY).passed


@pytest.mark.parametrize(
    ("limit", "late"), [(1, 13), (2, 12), (900, 3), (600, 4), (601, 3), (3600, 1)],
    ids=["first bound", "second", "a bound", "another", "rounded up", "the last"],
)  # fmt: skip
def test_late_is_what_certainly_took_longer_than_the_limit(limit: int, late: int) -> None:
    assert delayed([1] * (len(DELAY_BOUNDS) + 1), limit) == late


@pytest.mark.parametrize(("late", "passed"), [(0, True), (5, True), (6, False)])
def test_one_in_twenty_logins_may_be_late(late: int, passed: bool) -> None:
    counts = [100 - late, *[0] * (len(DELAY_BOUNDS) - 1), late]
    result = delay_within_limit(counts, 900)
    assert result.passed is passed
    assert result.metadata["p50"].value == "up to 1 s"
    assert result.metadata["p95"].value == ("up to 1 s" if passed else "over 3,600 s")


@pytest.mark.parametrize(
    ("recorded", "agrees", "lost"),
    [
        (LedgerDay(SATURDAY, 10, 2, 8, erased_since=False, ours_alone=True), True, False),
        (LedgerDay(SATURDAY, 10, 2, 7, erased_since=False, ours_alone=True), False, True),
        (LedgerDay(SATURDAY, 10, 2, 7, erased_since=True, ours_alone=True), False, False),
        (LedgerDay(SATURDAY, 10, 2, 7, erased_since=False, ours_alone=False), False, True),
        (LedgerDay(SATURDAY, 10, 2, 9, erased_since=False, ours_alone=True), False, False),
        (LedgerDay(SATURDAY, 10, 2, 9, erased_since=False, ours_alone=False), True, False),
        (LedgerDay(SATURDAY, 0, 0, 0, erased_since=False, ours_alone=True), True, False),
    ],
    ids=["whole", "lost", "erased", "lost on the first day", "surplus", "adopted", "nothing"],
)
def test_the_ledger_of_a_day(recorded: LedgerDay, agrees: bool, lost: bool) -> None:
    assert (recorded.agrees, recorded.lost) == (agrees, lost)
