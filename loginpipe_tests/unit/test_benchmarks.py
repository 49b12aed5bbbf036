"""The pure parts of the benchmarks: the evaluation of figures, and whether what is timed still exists."""

from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from operator import attrgetter
from threading import Thread
from time import thread_time

import pytest

from benchmarks.comparison import Trial, ratios, slopes, spread
from benchmarks.lag import Figure, Sample, cpu_us_a_message, delays, events_an_hour, quantile, schedule
from benchmarks.plan import FULL, LIMIT, OURS_NEW, SMALL_BATCHES, baselines
from benchmarks.stage_functions import FUNCTIONS, STAGES
from benchmarks.stages import OUTSIDE, PROCESS, StagedRun, stage_table
from benchmarks.targets import Verdict, verdicts
from benchmarks.timers import GARBAGE, Timers


def trial(baseline: str, messages: int, repeat: int, *, wall: float, cpu: float, peak: int = 200_000_000) -> Trial:
    return Trial(baseline, messages, repeat, wall, cpu, peak, endpoint_cpu_seconds=0.1, postgres_cpu_seconds=0.2)


# 30 µs a message and 2 s a process in the first round; 40 µs and 3 s in the second.
OURS = [
    trial(OURS_NEW, 100_000, 1, wall=6.0, cpu=5.0, peak=250_000_000),
    trial(OURS_NEW, 500_000, 1, wall=20.0, cpu=17.0, peak=265_000_000),
    trial(OURS_NEW, 100_000, 2, wall=7.0, cpu=7.0, peak=250_000_000),
    trial(OURS_NEW, 500_000, 2, wall=30.0, cpu=23.0, peak=255_000_000),
]


def verdict(trials: list[Trial], target: str) -> Verdict:
    (found,) = [verdict for verdict in verdicts(trials, FULL) if verdict.target == target]
    return found


def test_costs_are_those_between_two_sizes_of_one_round() -> None:
    marginal = spread(slope.marginal_us for slope in slopes(OURS, OURS_NEW, 100_000, 500_000))
    fixed = spread(slope.fixed_seconds for slope in slopes(OURS, OURS_NEW, 100_000, 500_000))
    assert marginal is not None
    assert fixed is not None
    assert (marginal.median, marginal.least, marginal.most) == pytest.approx((35, 30, 40))
    assert (fixed.median, fixed.least, fixed.most) == pytest.approx((2.5, 2, 3))


def test_rates_are_compared_round_by_round() -> None:
    limit = [trial(LIMIT, 500_000, 1, wall=6.0, cpu=1.0), trial(LIMIT, 500_000, 2, wall=12.0, cpu=1.0)]
    ours = [one for one in OURS if one.messages == 500_000]
    share = ratios(ours, limit, attrgetter("rate"))
    assert share is not None
    assert (share.least, share.most) == pytest.approx((6 / 20, 12 / 30))


def test_a_target_is_evaluated_by_the_median_and_says_by_how_much() -> None:
    met = verdict(OURS, f"{OURS_NEW}: a message takes at most 36 µs of CPU, marginal")
    assert (met.met, met.measured, met.by) == (True, "35.0 (30.0 to 40.0) µs", "1.00 µs (3%) to spare")
    large = [trial(OURS_NEW, 500_000, 1, wall=30, cpu=2.3, peak=385_000_000)]
    missed = verdict(large, f"{OURS_NEW}: peak memory is at most 350 MB at 500,000")
    assert (missed.met, missed.measured, missed.by) == (False, "385.0 MB", "missed by 35.00 MB (10%)")
    rate = verdict(large, f"{OURS_NEW}: one run takes at least 20,000 messages a second over 500,000, whole process")
    assert (rate.met, rate.by) == (False, "missed by 3,333.33 messages/s (17%)")


def test_peak_memory_grows_between_two_sizes_of_one_round() -> None:
    grown = verdict(OURS, f"{OURS_NEW}: peak memory grows by at most 5 % from 100,000 to 500,000")
    assert (grown.met, grown.measured) == (True, "4.0 (2.0 to 6.0) %")


def test_a_small_batch_takes_what_its_messages_alone_would_not() -> None:
    # 3,030 µs a message, 9,090 a batch of three; 90 of them are for the messages.
    small = [trial(SMALL_BATCHES, 300, 1, wall=4, cpu=3.0), trial(SMALL_BATCHES, 3_000, 1, wall=20, cpu=3.0 + 8.181)]
    batch = verdict([*OURS, *small], "a batch of 3 takes at most 8 ms of CPU besides its messages")
    assert (batch.met, batch.measured) == (False, "9.0 ms")


def test_the_stage_table_adds_up_to_the_whole_process() -> None:
    stage, functions = next(iter(STAGES.items()))
    dearest, other, *_ = functions.values()
    runs = [
        StagedRun(FULL.base, 1, 3.0, {other: 0.1, dearest: 0.2, GARBAGE: 0.1}),
        StagedRun(FULL.middle, 1, 6.6, {other: 0.55, dearest: 1.55, GARBAGE: 0.19}),
    ]
    found = {(row.stage, row.function): row.us.median for row in stage_table(runs, FULL)}
    assert found[stage, ""] == pytest.approx(20)
    assert list(found)[1:3] == [(stage, dearest), (stage, other)]
    wholes = {name: us for (name, function), us in found.items() if not function}
    assert wholes[PROCESS] == pytest.approx(40)
    assert wholes.pop(PROCESS) == pytest.approx(sum(wholes.values()))
    assert wholes[OUTSIDE] == pytest.approx(19)


def test_labels_of_the_stage_table_are_distinct() -> None:
    assert len(set(FUNCTIONS.values())) == len(FUNCTIONS) == sum(map(len, STAGES.values()))


def test_a_function_is_timed_without_what_it_spends_in_another_one_and_in_its_own_thread() -> None:
    def works(seconds: float) -> None:
        until = thread_time() + seconds
        while thread_time() < until:
            pass

    timers = Timers()
    inner = timers.timed("inner", partial(works, 0.1))

    def both() -> None:
        works(0.02)
        inner()

    thread = Thread(target=timers.timed("thread", partial(works, 0.05)))
    thread.start()
    timers.timed("outer", both)()
    thread.join()
    assert timers.seconds == pytest.approx({"inner": 0.1, "outer": 0.02, "thread": 0.05}, abs=0.01)


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    assert {found.met for found in verdicts([], FULL)} == {None}


def test_every_contender_of_ours_is_a_program() -> None:
    modules = {part for baseline in baselines(FULL) for part in baseline.command if part.startswith("benchmarks.")}
    assert len(modules) == 6
    assert all(find_spec(module) for module in modules)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_function_of_the_stage_table_is_still_there(function: str) -> None:
    module, _, attribute = function.partition(":")
    assert callable(attrgetter(attribute)(import_module(module)))


def test_a_delay_ends_with_the_first_sample_at_which_as_many_are_stored_as_were_sent() -> None:
    samples = [Sample(0.5, 0), Sample(1.0, 2), Sample(1.5, 2), Sample(2.0, 3), Sample(2.5, 3)]
    assert delays([0.0, 0.25, 0.75], samples) == pytest.approx([1.0, 0.75, 1.25])


def test_messages_that_are_not_stored_have_no_delay() -> None:
    with pytest.raises(ValueError, match="1 of 2 messages were stored at the last sample"):
        delays([0.0, 0.1], [Sample(1.0, 1)])


@pytest.mark.parametrize("a_second", [5, 167, 1_000])
def test_messages_are_sent_evenly_and_every_20_ms_at_most(a_second: int) -> None:
    groups = schedule(a_second, 10)
    offsets = [offset for offset, _ in groups]
    assert sum(count for _, count in groups) == a_second * 10
    assert min(count for _, count in groups) >= 1
    assert max(count for _, count in groups) <= max(1, a_second * 0.02 + 1)
    assert {round(later - earlier, 6) for earlier, later in pairwise(offsets)} == {max(0.02, 1 / a_second)}


def test_quantiles_are_values_that_occur() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert (quantile(values, 0.5), quantile(values, 0.99), quantile([7.0], 0.99)) == (50, 99, 7)


def test_cpu_a_message_is_without_what_idle_time_takes() -> None:
    assert cpu_us_a_message(3.0, 0.02, 100, 20_000) == pytest.approx(50)


def test_events_an_hour_are_those_of_its_runs_and_those_that_time_brings() -> None:
    assert events_an_hour(of_a_run=30, run_seconds=600, others=4, seconds=120) == pytest.approx(180 + 120)


def test_a_figure_meets_its_target_up_to_the_bound_and_none_where_it_has_none() -> None:
    assert [Figure("delay", target, 1.5).met for target in (1.5, 1.4, None)] == [True, False, None]
