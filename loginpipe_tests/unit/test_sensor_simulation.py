"""Days of traffic simulated in seconds: the sensor's own decisions, and runs that start, work, idle, fail and end."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random

import dagster as dg
import pytest

from loginpipe.defs.ingest.job import INGEST_JOB
from loginpipe.defs.ingest.sensor import SUCCESSOR_SECONDS, TICK_SECONDS, WAITING_IDLE, decide, history_of
from loginpipe.monitoring.reports import MAX_BACK_OFF, History, back_off
from loginpipe.sqs.client import Depth

BEGAN = datetime(2026, 11, 21, tzinfo=UTC)
HOUR, DAY = 3_600, 86_400
START_SECONDS = 5
BATCH, A_SECOND = 10_000, 8_000
"""Messages in a batch, and messages that a run processes in a second."""

(_STEP,) = WAITING_IDLE["ops"].values()
IDLE_SECONDS: int = _STEP["config"]["idle_seconds"]


@dataclass(eq=False)
class Run:
    """A run; times are seconds since the start of the simulation."""

    asked_for: int
    seconds: int
    had_messages: int = 0
    ended: int | None = None
    failed: bool = False

    @property
    def started(self) -> int:
        return self.asked_for + START_SECONDS

    def age(self, now: int) -> timedelta | None:
        return timedelta(seconds=now - self.started) if now >= self.started else None

    def record(self, number: int) -> dg.RunRecord:
        """Return its record in Dagster's storage, after it has ended."""
        assert self.ended is not None
        status = dg.DagsterRunStatus.FAILURE if self.failed else dg.DagsterRunStatus.SUCCESS
        began, ended = (BEGAN.timestamp() + seconds for seconds in (self.started, self.ended))
        at = datetime.fromtimestamp(ended, UTC)
        return dg.RunRecord(number, dg.DagsterRun(INGEST_JOB, status=status), at, at, began, ended)


@dataclass
class Day:
    """The result of a simulation.

    Attributes:
        waiting: messages waiting at each second.
        working: runs working at each second.
        starts: when runs were requested, how many, and the history as the sensor saw it.
    """

    runs: list[Run] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    working: list[int] = field(default_factory=list)
    starts: list[tuple[int, int, History]] = field(default_factory=list)
    most_going_on: int = 0


def simulate(
    arriving: Callable[[int], int],
    *,
    seconds: int = DAY,
    run_seconds: int = 600,
    max_runs: int = 3,
    fails_after: Callable[[int], int | None] = lambda _: None,
) -> Day:
    """Let the sensor start runs.

    Args:
        arriving: second → messages sent in it.
        seconds: duration of the simulation.
        run_seconds: when a run ends by itself.
        max_runs: the sensor's limit.
        fails_after: second → the age from which a run fails in it; None if none fails.
    """
    day, waiting = Day(), 0
    active: list[Run] = []
    ended: list[Run] = []
    for now in range(seconds):
        waiting += arriving(now)
        at_work = [run for run in active if now >= run.started]
        for run in at_work:
            got = min(waiting, A_SECOND)
            waiting -= got
            if got:
                run.had_messages = now
            age, limit = now - run.started, fails_after(now)
            run.failed = limit is not None and age >= limit
            idle = now - max(run.had_messages, run.started) >= IDLE_SECONDS
            if run.failed or idle or age >= run.seconds:
                run.ended = now
        ended += [run for run in active if run.ended is not None]
        active = [run for run in active if run.ended is None]
        day.waiting.append(waiting)
        day.working.append(len(at_work))
        if now % TICK_SECONDS:
            continue
        # The newest by request time, in Dagster's order, and no more than the sensor requests.
        newest = sorted(ended, key=lambda run: run.asked_for)[-12:]
        history = history_of([run.record(run.asked_for) for run in reversed(newest)])
        ages = [run.age(now) for run in active]
        decision = decide(
            Depth(waiting, 0, 0),
            queue="logins",
            active=ages,
            history=history,
            now=BEGAN + timedelta(seconds=now),
            batch_messages=BATCH,
            run_seconds=run_seconds,
            max_runs=max_runs,
        )
        if decision.runs:
            day.starts.append((now, decision.runs, history))
            new = [Run(now, run_seconds) for _ in range(decision.runs)]
            active += new
            day.runs += new
        ending = sum(age is not None and age.total_seconds() >= run_seconds - SUCCESSOR_SECONDS for age in ages)
        day.most_going_on = max(day.most_going_on, len(active) - ending)
    return day


def gaps(day: Day, *, until: int | None = None) -> list[int]:
    """Return the seconds without an active run after the first one started."""
    first = day.runs[0].started
    return [second for second, runs in enumerate(day.working[:until]) if second > first and not runs]


def bursts(seed: int) -> Callable[[int], int]:
    """Return the traffic of a day with a quiet night, a busy evening and short bursts of up to 200,000 messages."""
    random = Random(seed)
    bursts = {random.randrange(7 * HOUR, DAY): random.randrange(1_000, 200_000) for _ in range(40)}

    def arriving(second: int) -> int:
        hour = second // HOUR
        rate = 0 if hour < 5 else 2_000 if 18 <= hour < 21 else 20
        return rate + bursts.get(second, 0)

    return arriving


@pytest.mark.parametrize("rate", [1, 50, 1_000, A_SECOND])
@pytest.mark.parametrize("run_seconds", [60, 600, 3_600])
def test_under_steady_traffic_there_is_never_a_gap_without_a_run(rate: int, run_seconds: int) -> None:
    day = simulate(lambda _: rate, seconds=4 * HOUR, run_seconds=run_seconds)
    assert gaps(day) == []
    assert max(day.waiting[day.runs[0].started :]) <= rate * (TICK_SECONDS + START_SECONDS)
    assert day.most_going_on == 1
    # One after the other, each starting shortly before the end of the previous one.
    assert len(day.runs) <= 1 + 4 * HOUR / (run_seconds - SUCCESSOR_SECONDS)
    assert all(runs == 1 for _, runs, _ in day.starts)


def test_traffic_beyond_one_run_is_worked_off_by_more_and_never_by_more_than_the_limit() -> None:
    day = simulate(lambda _: 2 * A_SECOND, seconds=2 * HOUR)
    assert gaps(day) == []
    assert 2 <= day.most_going_on <= 3
    # The backlog is bounded: a fixed number of batches for every active run.
    assert max(day.waiting) < 3 * 5 * BATCH + 2 * A_SECOND * 2 * (TICK_SECONDS + START_SECONDS)
    assert max(day.waiting[-HOUR:]) == max(day.waiting[HOUR // 2 :]), "it does not go on growing"


def test_a_backlog_is_worked_off_by_all_runs_that_are_allowed_and_then_by_one() -> None:
    day = simulate(lambda second: 20_000_000 if not second else 100, seconds=2 * HOUR)
    assert day.starts[0][:2] == (0, 3)
    empty = next(second for second, waiting in enumerate(day.waiting) if second and not waiting)
    assert empty < 20_000_000 / (3 * A_SECOND) * 1.1
    assert day.most_going_on == 3
    assert all(runs == 1 for second, runs, _ in day.starts if second > empty)


@pytest.mark.parametrize("seed", range(3))
def test_a_day_with_bursts_is_worked_off_without_a_run_in_idle_hours(seed: int) -> None:
    day = simulate(bursts(seed))
    assert day.waiting[-1] == 0
    assert day.most_going_on <= 4
    assert day.starts[0][0] >= 5 * HOUR, "nothing is there to start for before"
    assert gaps(day) == []
    # The next tick sees a burst, and a run processes it within half a minute.
    longest = streak = 0
    for waiting in day.waiting:
        streak = streak + 1 if waiting else 0
        longest = max(longest, streak)
    assert longest <= 200_000 / A_SECOND + TICK_SECONDS + START_SECONDS + 30


def test_after_the_last_message_a_run_waits_idle_and_none_follows() -> None:
    day = simulate(lambda second: 100 if second < HOUR else 0, seconds=3 * HOUR)
    last = max(run.ended or 3 * HOUR for run in day.runs)
    # A successor that started at the last moment waits idle as well.
    assert last <= HOUR + SUCCESSOR_SECONDS + TICK_SECONDS + START_SECONDS + IDLE_SECONDS
    assert not any(day.working[last + 1 :])


def test_a_message_every_two_minutes_starts_a_run_for_each_and_every_half_minute_keeps_one() -> None:
    rarely = simulate(lambda second: int(second % 120 == 0), seconds=HOUR)
    often = simulate(lambda second: int(second % 30 == 0), seconds=HOUR)
    assert len(rarely.runs) == HOUR / 120
    assert rarely.most_going_on == 1
    assert len(often.runs) <= 1 + HOUR / (600 - SUCCESSOR_SECONDS)
    assert gaps(often) == []


def outage(begins: int, ends: int, after: int) -> Callable[[int], int | None]:
    return lambda second: after if begins <= second < ends else None


@pytest.mark.parametrize("after", [0, 1, 30, 90], ids=lambda after: f"after {after} s")
@pytest.mark.parametrize("rate", [100, 3 * A_SECOND], ids=["one run", "many runs"])
def test_in_an_outage_one_run_a_pause_tries_again_and_after_it_all_is_worked_off(after: int, rate: int) -> None:
    begins, ends = HOUR, 2 * HOUR
    day = simulate(lambda second: rate if second < 3 * HOUR else 0, seconds=8 * HOUR,
                   fails_after=outage(begins, ends, after))  # fmt: skip
    for second, runs, history in day.starts:
        if history.failures_in_a_row:
            assert runs == 1
            assert history.last_failure is not None
            ago = BEGAN + timedelta(seconds=second) - history.last_failure
            assert ago >= back_off(history.failures_in_a_row)
    tries = [(second, history.failures_in_a_row) for second, _, history in day.starts if begins < second < ends]
    probes = [second for second, failures in tries if failures]
    assert len(probes) <= 10, "pauses of 15 s, 30 s, … 15 min"
    # Runs that overlapped at the start of the outage count once, so the first pause is the shortest.
    assert [failures for _, failures in tries if failures][:3] == [1, 2, 3]
    recovered = next(second for second, runs in enumerate(day.working) if second > ends and runs)
    assert recovered <= ends + MAX_BACK_OFF.total_seconds() + TICK_SECONDS + START_SECONDS
    assert day.waiting[-1] == 0
    assert day.most_going_on <= 4


def test_runs_that_fail_now_and_then_do_not_hold_up_the_traffic() -> None:
    random = Random(5)
    bad = frozenset(random.sample(range(DAY), 50))
    day = simulate(bursts(1), fails_after=lambda second: 0 if second in bad else None)
    assert day.waiting[-1] == 0
    assert sum(run.failed for run in day.runs) > 10
    pauses = [second for second in gaps(day) if second > day.runs[0].started]
    # Never more than two pauses after consecutive failures.
    assert longest_streak(pauses) <= 2 * (15 + 30)


def longest_streak(seconds: Sequence[int]) -> int:
    longest = streak = 0
    for before, second in zip([-2, *seconds], seconds, strict=False):
        streak = streak + 1 if second == before + 1 else 1
        longest = max(longest, streak)
    return longest
