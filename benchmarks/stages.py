"""Build the stage table, which splits the cost of a message, from runs with timers at two sizes."""

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
"""A function below this cost per message has no row of its own."""


@dataclass(frozen=True)
class StagedRun:
    """CPU seconds of one run with timers.

    Attributes:
        cpu_seconds: of the whole process.
        functions: by label; each without its time in other listed functions.
    """

    messages: int
    repeat: int
    cpu_seconds: float
    functions: Mapping[str, float]


_Pair = tuple[StagedRun, StagedRun]
_Seconds = Callable[[StagedRun], float]


@dataclass(frozen=True)
class StageRow:
    """A row of the table: CPU microseconds per additional message of a stage, or of a function in it."""

    stage: str
    function: str
    us: Spread


def staged_run(trials: Trials, messages: int, repeat: int) -> StagedRun:
    """Run the pipeline once with timers, on new values.

    Raises:
        MeasuringError: it failed, for example because `benchmarks.stage_functions` lists a missing function.
    """
    (ours,) = [baseline for baseline in baselines(trials.sizes) if baseline.name == OURS_NEW]
    ground = trials.ground
    file = ground.folder / "stages.json"
    command = (sys.executable, "-m", "benchmarks.baselines.staged", str(file), *ours.command[1:])
    with ground.database(MIGRATED) as database_url, ground.queue(trials.bodies(messages)) as queue:
        used = measure(command, {**ground.variables(queue.name, database_url), **ours.variables}, ground.folder)
    return StagedRun(messages, repeat, used.cpu_seconds, json.loads(file.read_text()))


def stage_table(runs: Sequence[StagedRun], sizes: Sizes) -> list[StageRow]:
    """Return the table: stages in order, each with its functions by falling cost, then the rest and the total."""
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
