"""Where each microsecond of a message goes: the stage table, from runs with timers at two sizes."""

import json
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.comparison import Spread, sure
from benchmarks.ground import MIGRATED
from benchmarks.measuring import measure
from benchmarks.plan import OURS_NEW, Sizes, baselines
from benchmarks.stage_functions import STAGES
from benchmarks.timers import GARBAGE
from benchmarks.trials import Trials

OUTSIDE: Final = "outside of these functions"
PROCESS: Final = "the whole process"
_LEAST_US: Final = 0.05
"""A function that takes less a message is not shown by itself."""


@dataclass(frozen=True)
class StagedRun:
    """CPU seconds of one run with timers.

    Attributes:
        cpu_seconds: of the whole process.
        functions: by label; each without what it spent in others.
    """

    messages: int
    repeat: int
    cpu_seconds: float
    functions: Mapping[str, float]


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
    (ours,) = [baseline for baseline in baselines(trials.sizes) if baseline.name == OURS_NEW]
    ground = trials.ground
    file = ground.folder / "stages.json"
    command = (sys.executable, "-m", "benchmarks.baselines.staged", str(file), *ours.command[1:])
    with ground.database(MIGRATED) as database_url, ground.queue(trials.bodies(messages)) as queue:
        used = measure(command, {**ground.variables(queue.name, database_url), **ours.variables}, ground.folder)
    return StagedRun(messages, repeat, used.cpu_seconds, json.loads(file.read_text()))


def stage_table(runs: Sequence[StagedRun], sizes: Sizes) -> list[StageRow]:
    """Return the table: stages in order, each with its functions, the dearest first, then what is outside, and all."""
    pairs = [
        (less, more)
        for less in runs
        for more in runs
        if (less.messages, more.messages) == (sizes.base, sizes.middle) and less.repeat == more.repeat
    ]
    return list(_rows(pairs)) if pairs else []


def _rows(pairs: Sequence[_Pair]) -> Iterator[StageRow]:
    for stage, functions in STAGES.items():
        labels = list(functions.values())
        yield _row(pairs, stage, "", _of(labels))
        rows = [_row(pairs, stage, label, _of([label])) for label in labels]
        yield from sorted((row for row in rows if row.us.median >= _LEAST_US), key=lambda row: -row.us.median)
    yield _row(pairs, GARBAGE, "", _of([GARBAGE]))
    yield _row(pairs, OUTSIDE, "", lambda run: run.cpu_seconds - sum(run.functions.values()))
    yield _row(pairs, PROCESS, "", lambda run: run.cpu_seconds)


def _row(pairs: Sequence[_Pair], stage: str, function: str, seconds: _Seconds) -> StageRow:
    return StageRow(
        stage,
        function,
        sure([(seconds(more) - seconds(less)) / (more.messages - less.messages) * 1e6 for less, more in pairs]),
    )


def _of(labels: Collection[str]) -> _Seconds:
    return lambda run: sum(run.functions.get(label, 0.0) for label in labels)
