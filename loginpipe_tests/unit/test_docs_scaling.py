"""The numbers of docs/scaling.md, compared with a simulation in which the real sensor decides."""

import json
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from loginpipe.common.settings import Settings
from loginpipe.defs.ingest.sensor import SUCCESSOR_SECONDS, TICK_SECONDS, WAITING_IDLE, decide
from loginpipe.monitoring.reports import History
from loginpipe.sqs.client import Depth

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scaling.md").read_text()
# Seconds from the start of a run's process to its first receive.
OWN_SECONDS = 3.0
# Messages that a run processes in a second, with its own core.
A_SECOND = 20_000
# Batches whose messages a run holds: one being received, one being processed, one being deleted.
BATCHES_HELD = 3

DEFAULTS = {name: field.default for name, field in Settings.model_fields.items()}
RUN_SECONDS: float = DEFAULTS["run_seconds"]
IDLE_SECONDS: float = WAITING_IDLE["ops"]["ingest"]["config"]["idle_seconds"]
STEP_SECONDS = 0.25
LIMITS = yaml.safe_load((ROOT / "dagster.yaml").read_text())["concurrency"]["runs"]
# Limits for the runs on one queue, and for the runs of all other jobs.
A_QUEUE, OTHERS = (
    max(each["limit"] for each in LIMITS["tag_concurrency_limits"] if each["key"] == key)
    for key in ("loginpipe/queue", "loginpipe/downstream")
)
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@dataclass
class Run:
    """An active run: its queue, when its process starts, and when it last received something.

    A run in the run queue has no start yet. A run that hangs receives nothing and does not end.
    """

    queue: int
    starts_at: float = math.inf
    last_at: float = 0
    hangs: bool = False

    @property
    def receives_at(self) -> float:
        return math.inf if self.hangs else self.starts_at + OWN_SECONDS

    def ended(self, now: float) -> bool:
        return now >= self.receives_at + RUN_SECONDS or now >= max(self.last_at, self.receives_at) + IDLE_SECONDS

    def age(self, now: float) -> timedelta | None:
        return timedelta(seconds=now - self.starts_at) if now >= self.starts_at else None


@dataclass
class Outcome:
    """The result for a queue: messages stored and waiting, maxima, ticks that saw a limit, when none waited first."""

    stored: float = 0
    waiting: float = 0
    waiting_most: float = 0
    in_flight: float = 0
    in_flight_most: float = 0
    runs_most: int = 0
    limits: int = 0
    emptied_at: float = math.inf


def simulate(*, arriving: float = 0, waiting: float = 0, batch: int, runs: int, start: float, seconds: int) -> Outcome:
    """Let the sensor of one queue start runs for ``seconds``, while ``arriving`` messages a second arrive."""
    (outcome,) = simulate_deployment(
        queues=1, arriving=arriving, waiting=waiting, batch=batch, runs=runs, start=start, seconds=seconds
    )
    return outcome


def simulate_deployment(
    *,
    queues: int,
    arriving: float,
    waiting: float = 0,
    batch: int,
    runs: int,
    start: float,
    seconds: int,
    room: int | None = None,
    hanging: int | None = None,
) -> list[Outcome]:
    """Let the sensors of several queues start runs in one Dagster, while messages arrive on each queue.

    Args:
        queues: number of queues.
        arriving: messages a second, on each queue.
        waiting: messages on each queue at the start.
        batch: LOGINPIPE_BATCH_MESSAGES.
        runs: LOGINPIPE_MAX_RUNS.
        start: seconds that the launcher takes.
        seconds: duration of the simulation.
        room: max_concurrent_runs; by default the value of `deploy/aws`.
        hanging: the queue whose runs hang, if any.
    """
    outcomes, active = [Outcome(waiting=waiting) for _ in range(queues)], list[Run]()
    steps_a_tick, steps_a_second = round(TICK_SECONDS / STEP_SECONDS), round(1 / STEP_SECONDS)
    for step in range(round(seconds / STEP_SECONDS)):
        now = step * STEP_SECONDS
        active = [run for run in active if not run.ended(now)]
        for outcome in outcomes:
            outcome.waiting += arriving * STEP_SECONDS
            outcome.in_flight = 0
        for run in active:
            outcome = outcomes[run.queue]
            if now >= run.receives_at and (got := min(A_SECOND * STEP_SECONDS, outcome.waiting)):
                outcome.waiting -= got
                outcome.stored += got
                run.last_at = now
                outcome.in_flight += min(got / STEP_SECONDS, BATCHES_HELD * batch)
        for queue, outcome in enumerate(outcomes):
            ours = [run for run in active if run.queue == queue]
            outcome.waiting_most = max(outcome.waiting_most, outcome.waiting)
            outcome.in_flight_most = max(outcome.in_flight_most, outcome.in_flight)
            if outcome.stored and not outcome.waiting:
                outcome.emptied_at = min(outcome.emptied_at, now)
            outcome.runs_most = max(outcome.runs_most, sum(run.starts_at < math.inf for run in ours))
            if step % steps_a_tick == 0:
                depth = Depth(int(outcome.waiting), round(outcome.in_flight), 0)
                outcome.limits += depth.at_in_flight_limit
                decision = decide(
                    depth,
                    queue="logins",
                    active=[run.age(now) for run in ours],
                    history=History(),
                    now=NOW,
                    batch_messages=batch,
                    run_seconds=RUN_SECONDS,
                    max_runs=runs,
                )
                active += [Run(queue, hangs=queue == hanging) for _ in range(decision.runs)]
        if step % steps_a_second == 0:
            dequeue(active, now + start, room or A_QUEUE * queues + OTHERS)
    return outcomes


def dequeue(active: list[Run], starts_at: float, room: int) -> None:
    """Take runs from the run queue in order, up to the limits in total and for their queue."""
    for run in active:
        left = [each for each in active if each.starts_at < math.inf]
        if run.starts_at == math.inf and len(left) < room and sum(e.queue == run.queue for e in left) < A_QUEUE:
            run.starts_at = starts_at


def section_of(heading: str) -> str:
    (section,) = [part for part in re.split(r"^## ", PAGE, flags=re.MULTILINE) if part.startswith(heading)]
    return section


def settings(section: str) -> tuple[int, int]:
    """Return LOGINPIPE_BATCH_MESSAGES and LOGINPIPE_MAX_RUNS in a section of the page."""
    (batch,), (runs,) = (
        set(re.findall(rf"{name}=(\d+)", section_of(section)))
        for name in ("LOGINPIPE_BATCH_MESSAGES", "LOGINPIPE_MAX_RUNS")
    )
    return int(batch), int(runs)


LAUNCHERS = [
    [float(cell.replace(",", "")) for cell in cells]
    for cells in re.findall(r"\| [^|]+ \| ([\d.]+) \| ([\d.]+) \| ([\d,]+) \|\n", section_of("A queue's best"))
]
NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5}
# The number of queues that the page gives for 100,000 messages a second.
QUEUES = NUMBERS[re.findall(r"\*\*Queues\*\*: (\w+),", PAGE)[0]]
OF_LAUNCHERS = pytest.mark.parametrize("row", LAUNCHERS, ids=[f"start in {row[0]:g} s" for row in LAUNCHERS])


def numbers(pattern: str, section: str = PAGE) -> list[float]:
    """Return the numbers in the only place of the page that matches a pattern."""
    (found,) = re.findall(pattern, section)
    return [float(each.replace(",", "")) for each in ([found] if isinstance(found, str) else found)]


def test_the_limits_are_those_of_the_code() -> None:
    receivers, received, trip = numbers(r"(\d+) long polls at once .* receive ([\d,]+) messages a second at (\d+) ms")
    assert [receivers, received] == [DEFAULTS["receivers"], round(10 * receivers / (trip / 1000), -3)]
    pattern = r"_MAX_RUNS` \((\d+)\), and successors from (\d+) s .* allows (\d+) per queue, (\d+) in all"
    assert numbers(pattern) == [DEFAULTS["max_runs"], SUCCESSOR_SECONDS, A_QUEUE, LIMITS["max_concurrent_runs"]]
    assert numbers(r"to (\d+) for each queue and (\d+) for other jobs") == [A_QUEUE, OTHERS]
    assert numbers(r"with (\d+) in all, a queue whose runs hang") == [LIMITS["max_concurrent_runs"]]
    assert [NUMBERS[word] for word in re.findall(r"A run holds up to (\w+) batches", PAGE)] == [BATCHES_HELD]
    formula = numbers(r"= runs . ([\d,]+) . (\d+) / \((\d+) \+ gap\)") + numbers(r"gap = start \+ (\d+) s . (\d+) s")
    assert formula == [A_SECOND, RUN_SECONDS, RUN_SECONDS, TICK_SECONDS, SUCCESSOR_SECONDS]
    # Half a tick on average, then the start of a process.
    after_idle = TICK_SECONDS / 2 + LAUNCHERS[0][0] + OWN_SECONDS
    assert numbers(r"After an idle time, the first takes (\d+) s") == pytest.approx([after_idle], abs=1)


@pytest.mark.parametrize("values", ["new", "known"])
def test_what_a_message_costs_is_what_the_report_measured(values: str) -> None:
    column = 1 if values == "new" else 2
    rows = [line.split("|")[1:-1] for line in section_of("What a message costs").splitlines() if line[:1] == "|"]
    page = {
        cells[0].strip(): [float(n) for n in re.findall(r"[\d.]+", cells[column].replace(",", ""))] for cells in rows
    }
    report = ROOT / "benchmarks" / "report"
    stored = json.loads((report / "storage.json").read_text())["bytes_a_message"][f"all values {values}"]
    size = rf"\| ours, all values {values} \| "
    text = (report / "report.md").read_text()
    measured = {
        "write-ahead log": [stored["write-ahead log"]],
        "vault": [stored["vault"]],
        "`user_logins`": [stored["user_logins"]],
        "ledger, kept 29 days": [stored["ledger"]],
        "CPU of a run": numbers(size + r"100,000 and 500,000 \| [\d.]+ \(([\d.]+) to ([\d.]+)\)", text),
        "CPU of Postgres": numbers(size + r"500,000 .* \| ([\d.]+) \([^|]+ \|\n", text),
    }
    for name, amounts in measured.items():
        assert page[name] == pytest.approx(amounts, rel=0.05), name


def test_there_is_a_row_for_each_launcher() -> None:
    assert len(LAUNCHERS) == 3


@OF_LAUNCHERS
def test_a_queues_best_is_what_the_simulation_comes_to(row: list[float]) -> None:
    start, gap, best = row
    batch, runs = settings("A queue's best")
    assert gap == max(0, start + TICK_SECONDS - SUCCESSOR_SECONDS)
    assert best == int(runs * A_SECOND * RUN_SECONDS / (RUN_SECONDS + gap))
    seconds = int(20 * (RUN_SECONDS + gap))
    outcome = simulate(waiting=1e9, batch=batch, runs=runs, start=start, seconds=seconds)
    # A successor may receive messages before the end of the run that it follows.
    assert outcome.stored / seconds == pytest.approx(best, rel=0.04)
    assert outcome.limits == 0


@OF_LAUNCHERS
def test_as_many_queues_as_the_page_says_keep_up_with_100_000_a_second(row: list[float]) -> None:
    start, gap, best = row
    batch, runs = settings("100,000 messages a second")
    arriving = 100_000 / QUEUES
    assert arriving < best
    outcome = simulate(arriving=arriving, batch=batch, runs=runs, start=start, seconds=2 * 3600)
    # The backlog is what arrives while a second run starts; it does not grow further.
    assert outcome.waiting_most < arriving * (start + gap + 30)
    assert outcome.limits == 0


def test_queues_that_take_100_000_a_second_together_come_to_the_figures_of_the_page() -> None:
    section = section_of("100,000 messages a second")
    (room,), (at_once,), (cores,), (postgres,), (log,) = (
        re.findall(pattern, section)
        for pattern in (
            r"`max_concurrent_runs` to (\d+)\.",
            r"\*\*Runs\*\*: (\w+) at once on each queue",
            r"keep ([\d.]+) cores busy",
            r"\*\*Postgres\*\*: ([\d.]+) cores",
            r"([\d.]+) MB/s of write-ahead log",
        )
    )
    batch, most = settings("100,000 messages a second")
    start = max(row[0] for row in LAUNCHERS)
    outcomes = simulate_deployment(
        queues=QUEUES, arriving=100_000 / QUEUES, batch=batch, runs=most, start=start, seconds=2 * 3600
    )
    for outcome in outcomes:
        assert (outcome.runs_most, outcome.limits) == (NUMBERS[at_once], 0)
        assert not Depth(1, int(outcome.in_flight_most), 0).at_in_flight_limit
    assert int(room) == A_QUEUE * QUEUES + OTHERS
    cpu_message, cpu_postgres, bytes_in_log = costs()
    assert [float(cores), float(postgres), float(log)] == [
        round(100_000 * each / 1e6, 1) for each in (cpu_message, cpu_postgres, bytes_in_log)
    ]


def costs() -> list[float]:
    """Return the maximum cost of a message with new values: µs in a run and in Postgres, bytes in the log."""
    patterns = (
        r"\| CPU of a run \| \d+ to (\d+) µs",
        r"\| CPU of Postgres \| (\d+) µs",
        r"\| write-ahead log \| ([\d,]+) bytes",
    )
    return [float(re.findall(pattern, PAGE)[0].replace(",", "")) for pattern in patterns]


@pytest.mark.parametrize(("room", "keeps_up"), [(None, True), (10, False)], ids=["a place each", "ten in all"])
def test_a_queue_whose_runs_hang_does_not_touch_the_others_where_each_has_its_places(
    room: int | None, keeps_up: bool
) -> None:
    batch, runs = settings("100,000 messages a second")
    arriving, start = 100_000 / QUEUES, 45
    first, *others = simulate_deployment(
        queues=QUEUES,
        arriving=arriving,
        batch=batch,
        runs=runs,
        start=start,
        seconds=2 * 3600,
        room=room,
        hanging=0,
    )
    assert first.stored == 0
    assert first.runs_most == A_QUEUE
    assert all((outcome.waiting_most < arriving * 2 * start) is keeps_up for outcome in others)


SLOW, FAST = numbers(r"## (\d+) and ([\d,]+) messages a second")


@pytest.mark.parametrize("arriving", [SLOW, FAST])
@pytest.mark.parametrize("start", [row[0] for row in LAUNCHERS])
def test_the_default_settings_keep_up_with_less_however_slowly_runs_start(arriving: float, start: float) -> None:
    outcome = simulate(
        arriving=arriving,
        batch=DEFAULTS["batch_messages"],
        runs=DEFAULTS["max_runs"],
        start=start,
        seconds=2 * 3600,
    )
    assert outcome.waiting_most < arriving * (start + 30)
    # One run, and its successor.
    assert (outcome.runs_most, outcome.limits) == (2, 0)


def test_a_run_at_1_000_a_second_uses_the_part_of_a_core_that_the_page_says() -> None:
    microseconds, *_ = costs()
    assert numbers(r"At ([\d,]+), a run uses (\d+) % of a core") == [FAST, int(FAST * microseconds / 1e6 * 100)]


def test_no_setting_on_the_page_fills_what_may_be_in_flight() -> None:
    for section in ("A queue's best", "100,000 messages"):
        batch, runs = settings(section)
        # For some time, each run has a successor beside it.
        assert not Depth(1, 2 * runs * BATCHES_HELD * batch, 0).at_in_flight_limit
    batch, runs = settings("A queue's best")
    assert numbers(r"hold at most ([\d,]+) messages") == [2 * runs * BATCHES_HELD * batch]
    most = 2 * DEFAULTS["max_runs"] * BATCHES_HELD * DEFAULTS["batch_messages"]
    assert Depth(1, most, 0).at_in_flight_limit, "as the page says of the defaults"
    (reported,) = map(int, numbers(r"report it from ([\d,]+) on"))
    assert Depth(1, reported, 0).at_in_flight_limit
    assert not Depth(1, reported - 1, 0).at_in_flight_limit


def test_the_hours_backlog_is_worked_off_in_the_minutes_that_the_page_says() -> None:
    minutes = numbers(r"in (\d+) minutes by one run, in (\d+) by three")
    for runs, expected in zip((1, 3), minutes, strict=True):
        outcome = simulate(
            arriving=FAST,
            waiting=FAST * 3600,
            batch=DEFAULTS["batch_messages"],
            runs=runs,
            start=0,
            seconds=600,
        )
        assert round((outcome.emptied_at - OWN_SECONDS) / 60) == expected
