"""The benchmarks' pure parts: what is judged from figures, and that what is timed is still there."""

from importlib import import_module
from importlib.util import find_spec
from operator import attrgetter

import pytest

from benchmarks.comparison import Trial, ratios, slopes, spread
from benchmarks.plan import FULL, LIMIT, OURS_NEW, contenders
from benchmarks.stage_functions import FUNCTIONS
from benchmarks.targets import Verdict, verdicts


def trial(contender: str, messages: int, repeat: int, *, wall: float, cpu: float, peak: int = 200_000_000) -> Trial:
    return Trial(contender, messages, repeat, wall, cpu, peak, endpoint_cpu_seconds=0.1, postgres_cpu_seconds=0.2)


# 30 µs a message and 2 s a process in the first round; 40 µs and 3 s in the second.
OURS = [
    trial(OURS_NEW, 10_000, 1, wall=3.0, cpu=2.3),
    trial(OURS_NEW, 60_000, 1, wall=6.0, cpu=3.8),
    trial(OURS_NEW, 10_000, 2, wall=4.0, cpu=3.4),
    trial(OURS_NEW, 60_000, 2, wall=6.0, cpu=5.4),
]


def verdict(trials: list[Trial], target: str) -> Verdict:
    (found,) = [verdict for verdict in verdicts(trials, FULL) if verdict.target == target]
    return found


def test_costs_are_those_between_two_sizes_of_one_round() -> None:
    marginal = spread(slope.marginal_us for slope in slopes(OURS, OURS_NEW, 10_000, 60_000))
    fixed = spread(slope.fixed_seconds for slope in slopes(OURS, OURS_NEW, 10_000, 60_000))
    assert marginal is not None
    assert fixed is not None
    assert (marginal.median, marginal.least, marginal.most) == pytest.approx((35, 30, 40))
    assert (fixed.median, fixed.least, fixed.most) == pytest.approx((2.5, 2, 3))


def test_rates_are_compared_round_by_round() -> None:
    limit = [trial(LIMIT, 60_000, 1, wall=2.0, cpu=1.0), trial(LIMIT, 60_000, 2, wall=4.0, cpu=1.0)]
    ours = [one for one in OURS if one.messages == 60_000]
    share = ratios(ours, limit, attrgetter("rate"))
    assert share is not None
    assert (share.least, share.most) == pytest.approx((2 / 6, 4 / 6))


def test_a_target_is_judged_by_the_median_and_says_by_how_much() -> None:
    met = verdict(OURS, f"{OURS_NEW}: marginal CPU at most 50 µs a message")
    assert (met.met, met.measured, met.by) == (True, "35.0 (30.0 to 40.0) µs", "15.00 µs (30%) to spare")
    large = [trial(OURS_NEW, 10_000, 1, wall=3, cpu=2.3, peak=300_000_000)]
    missed = verdict(large, f"{OURS_NEW}: peak memory at most 250 MB at 10,000")
    assert (missed.met, missed.measured, missed.by) == (False, "300.0 MB", "missed by 50.00 MB (20%)")


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    assert {found.met for found in verdicts([], FULL)} == {None}


def test_every_contender_of_ours_is_a_program() -> None:
    modules = {part for contender in contenders(FULL) for part in contender.command if part.startswith("benchmarks.")}
    assert len(modules) == 6
    assert all(find_spec(module) for module in modules)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_function_of_the_stage_table_is_still_there(function: str) -> None:
    module, _, attribute = function.partition(":")
    assert callable(attrgetter(attribute)(import_module(module)))
