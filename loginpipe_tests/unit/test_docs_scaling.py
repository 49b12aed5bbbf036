"""The arithmetic of docs/scaling.md, against a simulation in which the real sensor decides."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from loginpipe.common.settings import Settings
from loginpipe.defs.ingest.sensor import SUCCESSOR_SECONDS, TICK_SECONDS, WAITING_IDLE, decide
from loginpipe.monitoring.run_history import History
from loginpipe.sqs.depth import Depth

PAGE = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()
# From the start of a run's process until it receives, in seconds.
OWN_SECONDS = 3.0
# What a run takes in a second, with a core of its own.
A_SECOND = 20_000
# Batches of a run whose messages are not deleted: one that is received, one in work, one that is deleted.
BATCHES_HELD = 3

DEFAULTS = {name: field.default for name, field in Settings.model_fields.items()}
RUN_SECONDS: float = DEFAULTS["run_seconds"]
IDLE_SECONDS: float = WAITING_IDLE["ops"]["ingest"]["config"]["idle_seconds"]
STEP_SECONDS = 0.25
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@dataclass
class Run:
    """A run that is active: when its process starts, and when it last received something."""

    starts_at: float
    last_at: float = 0

    @property
    def receives_at(self) -> float:
        return self.starts_at + OWN_SECONDS

    def ended(self, now: float) -> bool:
        return now >= self.receives_at + RUN_SECONDS or now >= max(self.last_at, self.receives_at) + IDLE_SECONDS

    def age(self, now: float) -> timedelta | None:
        return timedelta(seconds=now - self.starts_at) if now >= self.starts_at else None


@dataclass
class Outcome:
    """What a simulation came to: messages stored, waiting, most waiting, most in flight; ticks that saw a stall."""

    stored: float = 0
    waiting: float = 0
    waiting_most: float = 0
    in_flight_most: float = 0
    stalls: int = 0


def simulate(*, arriving: float = 0, waiting: float = 0, batch: int, runs: int, start: float, seconds: int) -> Outcome:
    """Let the sensor start runs for so long, while so many messages arrive a second."""
    outcome, active, steps_a_tick = Outcome(waiting=waiting), list[Run](), round(TICK_SECONDS / STEP_SECONDS)
    for step in range(round(seconds / STEP_SECONDS)):
        now = step * STEP_SECONDS
        outcome.waiting += arriving * STEP_SECONDS
        active = [run for run in active if not run.ended(now)]
        in_flight = 0.0
        for run in active:
            if now >= run.receives_at and (got := min(A_SECOND * STEP_SECONDS, outcome.waiting)):
                outcome.waiting -= got
                outcome.stored += got
                run.last_at = now
                in_flight += min(got / STEP_SECONDS, BATCHES_HELD * batch)
        outcome.waiting_most = max(outcome.waiting_most, outcome.waiting)
        outcome.in_flight_most = max(outcome.in_flight_most, in_flight)
        if step % steps_a_tick == 0:
            depth = Depth(int(outcome.waiting), round(in_flight), 0)
            outcome.stalls += depth.at_in_flight_limit
            decision = decide(
                depth,
                queue="logins",
                active=[run.age(now) for run in active],
                history=History(),
                now=NOW,
                batch_messages=batch,
                run_seconds=RUN_SECONDS,
                max_runs=runs,
            )
            active += [Run(now + start) for _ in range(decision.runs)]
    return outcome


def settings(section: str) -> tuple[int, int]:
    """Batch and runs as a section of the page sets them."""
    text = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    (of_it,) = [part for part in text if part.startswith(section)]
    (batch,), (runs,) = (
        set(re.findall(rf"{name}=(\d+)", of_it)) for name in ("LOGINPIPE_BATCH_MESSAGES", "LOGINPIPE_MAX_RUNS")
    )
    return int(batch), int(runs)


LAUNCHERS = [
    [float(cell.replace(",", "")) for cell in cells]
    for cells in re.findall(r"^\| [^|]+ \| ([\d.]+) \| ([\d.]+) \| ([\d,]+) \| ([\d,]+) \|$", PAGE, flags=re.MULTILINE)
]
OF_LAUNCHERS = pytest.mark.parametrize("row", LAUNCHERS, ids=[f"start in {row[0]:g} s" for row in LAUNCHERS])


def test_there_is_a_row_for_each_launcher() -> None:
    assert len(LAUNCHERS) == 3


@OF_LAUNCHERS
def test_a_queues_best_is_what_the_simulation_comes_to(row: list[float]) -> None:
    start, gap, best, _ = row
    batch, runs = settings("A queue's best")
    assert gap == max(0, start + TICK_SECONDS - SUCCESSOR_SECONDS)
    assert best == int(runs * A_SECOND * RUN_SECONDS / (RUN_SECONDS + gap))
    seconds = int(20 * (RUN_SECONDS + gap))
    outcome = simulate(waiting=1e9, batch=batch, runs=runs, start=start, seconds=seconds)
    # A successor may take its messages before the run that it follows has ended.
    assert outcome.stored / seconds == pytest.approx(best, rel=0.04)
    assert outcome.stalls == 0


@OF_LAUNCHERS
def test_as_many_queues_as_the_page_says_keep_up_with_100_000_a_second(row: list[float]) -> None:
    start, gap, best, queues = row
    batch, runs = settings("100,000 messages a second")
    arriving = 100_000 / queues
    assert arriving < best
    outcome = simulate(arriving=arriving, batch=batch, runs=runs, start=start, seconds=2 * 3600)
    # As much waits as comes while a second run starts, however long it goes on.
    assert outcome.waiting_most < arriving * (start + gap + 30)
    assert outcome.stalls == 0


@pytest.mark.parametrize("arriving", [10, 1_000])
@pytest.mark.parametrize("start", [row[0] for row in LAUNCHERS])
def test_the_default_settings_keep_up_with_less_however_slowly_runs_start(arriving: int, start: float) -> None:
    outcome = simulate(
        arriving=arriving,
        batch=DEFAULTS["batch_messages"],
        runs=DEFAULTS["max_runs"],
        start=start,
        seconds=2 * 3600,
    )
    assert outcome.waiting_most < arriving * (start + 30)
    assert outcome.stalls == 0


def test_no_setting_on_the_page_fills_what_may_be_in_flight() -> None:
    for section in ("A queue's best", "100,000 messages"):
        batch, runs = settings(section)
        # Each run has a successor beside it for a while.
        assert not Depth(1, 2 * runs * BATCHES_HELD * batch, 0).at_in_flight_limit
    assert Depth(1, 114_000, 0).at_in_flight_limit, "as the page says"
    assert not Depth(1, 113_999, 0).at_in_flight_limit


def test_the_hours_backlog_is_worked_off_in_the_minutes_that_the_page_says() -> None:
    ((one, three),) = re.findall(r"in (\d+) minutes by one run, in (\d+) by three", PAGE)
    for runs, minutes in ((1, one), (3, three)):
        assert int(minutes) == round(3_600_000 / (runs * A_SECOND - 1_000) / 60)
