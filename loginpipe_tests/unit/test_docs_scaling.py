"""The arithmetic of docs/scaling.md, against a simulation in which the real sensor decides."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil
from pathlib import Path

import pytest

from loginpipe.common.settings import Settings
from loginpipe.defs.ingest.sensor import TICK_SECONDS, decide
from loginpipe.monitoring.run_history import History
from loginpipe.sqs.depth import Depth

PAGE = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()
OWN_SECONDS, A_SECOND = 3.0, 16_600
"""A run's own time, and what it works off in a second."""

BATCH_SECONDS: float = Settings.model_fields["batch_seconds"].default
STEP_SECONDS = 0.05
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@dataclass
class Run:
    """A run under way: when it begins to receive, what it holds, and when it ends, once that is known."""

    receives_at: float
    held: float = 0
    ends_at: float = float("inf")


@dataclass
class Outcome:
    """What a simulation came to: messages stored, left waiting, most in flight at once, and ticks that saw a stall."""

    stored: float = 0
    waiting: float = 0
    in_flight_most: float = 0
    stalls: int = 0


def simulate(*, arriving: float = 0, waiting: float = 0, batch: int, runs: int, start: float, seconds: int) -> Outcome:
    """Let the sensor start runs for so long, while so many messages arrive a second."""
    outcome, going, steps_a_tick = Outcome(waiting=waiting), list[Run](), round(TICK_SECONDS / STEP_SECONDS)
    for step in range(round(seconds / STEP_SECONDS)):
        now = step * STEP_SECONDS
        outcome.waiting += arriving * STEP_SECONDS
        for run in going:
            if run.receives_at <= now < run.ends_at == float("inf"):
                got = min(A_SECOND * STEP_SECONDS, batch - run.held, outcome.waiting)
                run.held += got
                outcome.waiting -= got
                if run.held >= batch - 1e-6 or now - run.receives_at >= BATCH_SECONDS:
                    run.ends_at = now + STEP_SECONDS
        outcome.stored += sum(run.held for run in going if run.ends_at <= now)
        going = [run for run in going if run.ends_at > now]
        in_flight = sum(run.held for run in going)
        outcome.in_flight_most = max(outcome.in_flight_most, in_flight)
        if step % steps_a_tick == 0:
            depth = Depth(int(outcome.waiting), round(in_flight), 0)
            outcome.stalls += depth.stalled
            decision = decide(
                depth,
                queue="logins",
                going=len(going),
                history=History(),
                now=NOW,
                batch_messages=batch,
                max_runs=runs,
            )
            going += [Run(now + start + OWN_SECONDS) for _ in range(decision.runs)]
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
    for cells in re.findall(
        r"^\| [^|]+ \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d,]+) \| ([\d,]+) \|$", PAGE, flags=re.MULTILINE
    )
]


def test_there_is_a_row_for_each_launcher() -> None:
    assert len(LAUNCHERS) == 3


@pytest.mark.parametrize("row", LAUNCHERS, ids=[f"start in {row[0]:g} s" for row in LAUNCHERS])
def test_a_queues_best_is_what_the_simulation_comes_to(row: list[float]) -> None:
    start, life, turn, best, _ = row
    batch, runs = settings("A queue's best")
    assert life == round(start + OWN_SECONDS + batch / A_SECOND, 1)
    assert turn == ceil(life / TICK_SECONDS) * TICK_SECONDS
    assert best == runs * batch / turn
    turns = 40
    outcome = simulate(waiting=1e9, batch=batch, runs=runs, start=start, seconds=int(turns * turn))
    assert outcome.stored / (turns * turn) == pytest.approx(best, rel=1.01 / turns), "the last turn may be under way"
    assert outcome.stalls == 0


@pytest.mark.parametrize("row", LAUNCHERS, ids=[f"start in {row[0]:g} s" for row in LAUNCHERS])
def test_as_many_queues_as_the_page_says_work_100_000_a_second_off(row: list[float]) -> None:
    start, _, turn, best, queues = row
    batch, runs = settings("100,000 messages a second")
    arriving = 100_000 / queues
    assert arriving < best
    outcome = simulate(arriving=arriving, batch=batch, runs=runs, start=start, seconds=int(60 * turn))
    # As much waits as comes in two turns, however long it goes on.
    assert outcome.waiting < 2 * turn * arriving
    assert outcome.stalls == 0


@pytest.mark.parametrize(("section", "arriving"), [("10 messages", 10), ("1,000 messages", 1_000)])
@pytest.mark.parametrize("start", [row[0] for row in LAUNCHERS])
def test_the_settings_for_less_work_it_off_however_slowly_runs_start(section: str, arriving: int, start: float) -> None:
    fields = Settings.model_fields
    batch, runs = (
        (fields["batch_messages"].default, fields["max_runs"].default) if arriving == 10 else settings(section)
    )
    outcome = simulate(arriving=arriving, batch=batch, runs=runs, start=start, seconds=3600)
    assert outcome.waiting < arriving * (start + 30)
    assert outcome.stalls == 0


def test_no_setting_on_the_page_fills_what_may_be_in_flight() -> None:
    for section in ("A queue's best", "1,000 messages", "100,000 messages"):
        batch, runs = settings(section)
        assert not Depth(1, batch * runs, 0).stalled
    assert Depth(1, 114_000, 0).stalled, "as the page says"
    assert not Depth(1, 113_999, 0).stalled


def test_the_hours_backlog_is_worked_off_in_the_minutes_that_the_page_says() -> None:
    (said,) = re.findall(r"in (\d+)\s+minutes by processes, in (\d+) by containers, in (\d+) by tasks", PAGE)
    for minutes, (*_, best, _) in zip(map(int, said), LAUNCHERS, strict=True):
        assert minutes == round(3_600_000 / (best - 1_000) / 60)
