"""The settings of docs/scaling.md, against a simulation in which the real sensor decides."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from loginpipe.common.settings import Settings
from loginpipe.defs.ingest.sensor import TICK_SECONDS, WAITING_IDLE, decide
from loginpipe.monitoring.run_history import History
from loginpipe.sqs.depth import IN_FLIGHT_MOST, Depth

PAGE = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()
OWN_SECONDS, A_SECOND, RECEIVED_A_SECOND = 3.0, 16_600, 21_000
"""A run's own time before it receives, what it works off in a second, and what it can receive in one."""

BATCHES_HELD = 3
"""By a run: one that is filled, one that is in work, and one that is being deleted."""

RUN_SECONDS: float = Settings.model_fields["run_seconds"].default
(_STEP,) = WAITING_IDLE["ops"].values()
IDLE_SECONDS: int = _STEP["config"]["idle_seconds"]
STEP_SECONDS = 0.05
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
STARTS = [1, 14, 45]
"""Seconds that a launcher takes until a run's process begins: a process, a container, a task."""


@dataclass(eq=False)
class Run:
    """An active run: when it begins to receive, what it holds, and since when nothing has come."""

    receives_at: float
    held: float = 0
    idle_since: float = 0

    def is_over(self, now: float) -> bool:
        idle = now - max(self.idle_since, self.receives_at) >= IDLE_SECONDS
        return now >= self.receives_at and not self.held and (idle or not self.is_receiving(now))

    def is_receiving(self, now: float) -> bool:
        return self.receives_at <= now < self.receives_at + RUN_SECONDS


@dataclass
class Outcome:
    """What a simulation came to: messages stored, left waiting, most in flight at once, and ticks that saw a stall."""

    stored: float = 0
    waiting: float = 0
    in_flight_most: float = 0
    stalls: int = 0


def simulate(*, arriving: float = 0, waiting: float = 0, batch: int, runs: int, start: float, seconds: int) -> Outcome:
    """Let the sensor start runs for so long, while so many messages arrive a second."""
    outcome, active, steps_a_tick = Outcome(waiting=waiting), list[Run](), round(TICK_SECONDS / STEP_SECONDS)
    for step in range(round(seconds / STEP_SECONDS)):
        now = step * STEP_SECONDS
        outcome.waiting += arriving * STEP_SECONDS
        for run in active:
            if run.is_receiving(now):
                got = min(RECEIVED_A_SECOND * STEP_SECONDS, BATCHES_HELD * batch - run.held, outcome.waiting)
                run.held += got
                outcome.waiting -= got
                if got:
                    run.idle_since = now
            done = min(A_SECOND * STEP_SECONDS, run.held)
            run.held -= done
            outcome.stored += done
        active = [run for run in active if not run.is_over(now)]
        in_flight = sum(run.held for run in active)
        outcome.in_flight_most = max(outcome.in_flight_most, in_flight)
        if step % steps_a_tick == 0:
            depth = Depth(int(outcome.waiting), round(in_flight), 0)
            outcome.stalls += depth.stalled
            # Dagster dates the start of a run from when its process begins.
            ages = [now - run.receives_at + OWN_SECONDS for run in active]
            decision = decide(
                depth,
                queue="logins",
                active=[None if age < 0 else timedelta(seconds=age) for age in ages],
                history=History(),
                now=NOW,
                batch_messages=batch,
                run_seconds=RUN_SECONDS,
                max_runs=runs,
            )
            active += [Run(now + start + OWN_SECONDS) for _ in range(decision.runs)]
    return outcome


def settings(section: str) -> tuple[int, int]:
    """Batch and runs as a section of the page sets them; the defaults where it does not."""
    text = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    (of_it,) = [part for part in text if part.startswith(section)]
    fields = Settings.model_fields
    defaults: dict[str, int] = {name: fields[name].default for name in ("batch_messages", "max_runs")}
    found = {name: set(re.findall(rf"LOGINPIPE_{name.upper()}=(\d+)", of_it)) for name in defaults}
    batch, runs = (int(*set_to) if (set_to := found[name]) else default for name, default in defaults.items())
    return batch, runs


@pytest.mark.parametrize(("section", "arriving"), [("10 messages", 10), ("1,000 messages", 1_000)])
@pytest.mark.parametrize("start", STARTS)
def test_the_settings_for_less_work_it_off_however_slowly_runs_start(section: str, arriving: int, start: float) -> None:
    batch, runs = settings(section)
    outcome = simulate(arriving=arriving, batch=batch, runs=runs, start=start, seconds=3600)
    assert outcome.waiting < arriving * (start + 30)
    assert outcome.stalls == 0


@pytest.mark.parametrize("start", STARTS)
def test_a_backlog_is_worked_off_by_all_the_runs_that_the_defaults_allow(start: float) -> None:
    fields = Settings.model_fields
    batch, runs = fields["batch_messages"].default, fields["max_runs"].default
    outcome = simulate(waiting=1e9, batch=batch, runs=runs, start=start, seconds=1200)
    # Those of one age end together; a successor that takes longer to start than it is given leaves a gap.
    working = 1200 - 2 * (start + OWN_SECONDS + TICK_SECONDS)
    assert outcome.stored > 0.9 * runs * A_SECOND * working
    # One successor at a time beside those that are about to end.
    assert outcome.in_flight_most <= BATCHES_HELD * batch * (runs + 1) <= IN_FLIGHT_MOST


def test_a_queue_is_near_its_limit_in_flight_where_the_page_says() -> None:
    assert Depth(1, 114_000, 0).stalled, "as the page says"
    assert not Depth(1, 113_999, 0).stalled
