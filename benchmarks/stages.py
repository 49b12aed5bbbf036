"""Where each microsecond of a message goes: the stage table, from runs with timers at two sizes."""

import json
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.comparison import Spread, sure
from benchmarks.ground import MIGRATED
from benchmarks.measuring import measure
from benchmarks.plan import OURS_NEW, Sizes, contenders
from benchmarks.trials import Trials

STEPS: Final = "all stages"
OUTSIDE: Final = "outside the stages"
PROCESS: Final = "the whole process"
REST: Final = "the rest of the stage"
_LEAST_US: Final = 0.05
"""A function that takes less a message is not shown by itself."""

FIXED: Final = ("until the first stage", "between the stages", "after the last stage", "the interpreter's end")
"""What a run takes besides its stages."""


@dataclass(frozen=True)
class StagedRun:
    """CPU seconds of one run with timers.

    Attributes:
        cpu_seconds: of the whole process.
        steps: by step, in order.
        functions: by step, and by label within; each without what it spent in others.
        fixed: by `FIXED`.
    """

    messages: int
    repeat: int
    cpu_seconds: float
    steps: Mapping[str, float]
    functions: Mapping[str, Mapping[str, float]]
    fixed: Mapping[str, float]


_Pair = tuple[StagedRun, StagedRun]
_Seconds = Callable[[StagedRun], float]


@dataclass(frozen=True)
class StageRow:
    """A row of the table: CPU microseconds a message more of a stage, or of a function within it."""

    stage: str
    function: str
    us: Spread


def staged_run(trials: Trials, messages: int, repeat: int) -> StagedRun:
    """Run the pipeline with timers on new values, once.

    Raises:
        MeasuringError: it failed, as it does where `benchmarks.stage_functions` names what is not there.
    """
    (ours,) = [contender for contender in contenders(trials.sizes) if contender.name == OURS_NEW]
    ground = trials.ground
    file = ground.folder / "stages.json"
    command = (sys.executable, "-m", "benchmarks.contenders.staged", str(file), *ours.command[1:])
    with ground.database(MIGRATED) as database_url, ground.queue(trials.bodies(messages)) as queue:
        variables = {
            **ground.variables(queue.name, database_url),
            **ours.variables,
            "LOGINPIPE_BATCH_MESSAGES": str(messages),
        }
        used = measure(command, variables, ground.folder)
    report: dict[str, Any] = json.loads(file.read_text())
    functions: dict[str, dict[str, float]] = {}
    for step, label, seconds in report["functions"]:
        functions.setdefault(step, {})[label] = seconds
    parts = (
        report["before_steps"],
        report["after_steps"] - report["before_steps"] - sum(report["steps"].values()),
        report["cpu_seconds"] - report["after_steps"],
        used.cpu_seconds - report["cpu_seconds"],
    )
    return StagedRun(
        messages, repeat, used.cpu_seconds, report["steps"], functions, dict(zip(FIXED, parts, strict=True))
    )


def stage_table(runs: Sequence[StagedRun], sizes: Sizes) -> list[StageRow]:
    """Return the table: stages in order, each with its functions, the dearest first, then sum and rest."""
    pairs = [
        (less, more)
        for less in runs
        for more in runs
        if (less.messages, more.messages) == (sizes.base, sizes.middle) and less.repeat == more.repeat
    ]
    return list(_rows(pairs)) if pairs else []


def _rows(pairs: Sequence[_Pair]) -> Iterator[StageRow]:
    _, newest = pairs[-1]
    for step in newest.steps:
        yield from _stage_rows(pairs, step, step, _of_step(step))
    yield _row(pairs, STEPS, "", _of_steps)
    yield from _stage_rows(pairs, OUTSIDE, "", lambda run: run.cpu_seconds - _of_steps(run))
    yield _row(pairs, PROCESS, "", lambda run: run.cpu_seconds)


def _stage_rows(pairs: Sequence[_Pair], stage: str, step: str, whole: _Seconds) -> Iterator[StageRow]:
    """Yield a stage, its functions that can be told from nothing, and what remains."""
    yield _row(pairs, stage, "", whole)
    _, newest = pairs[-1]
    labels = newest.functions.get(step, {})
    functions = [_row(pairs, stage, label, _of_functions(step, {label})) for label in labels]
    shown = sorted((row for row in functions if row.us.median >= _LEAST_US), key=lambda row: -row.us.median)
    if shown:
        yield from shown
        named = _of_functions(step, {row.function for row in shown})
        yield _row(pairs, stage, REST, lambda run: whole(run) - named(run))


def _row(pairs: Sequence[_Pair], stage: str, function: str, seconds: _Seconds) -> StageRow:
    return StageRow(
        stage,
        function,
        sure([(seconds(more) - seconds(less)) / (more.messages - less.messages) * 1e6 for less, more in pairs]),
    )


def _of_steps(run: StagedRun) -> float:
    return sum(run.steps.values())


def _of_step(step: str) -> _Seconds:
    return lambda run: run.steps.get(step, 0)


def _of_functions(step: str, labels: Collection[str]) -> _Seconds:
    return lambda run: sum(run.functions.get(step, {}).get(label, 0) for label in labels)
