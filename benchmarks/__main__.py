"""Measure the cost of a message in the pipeline and in other programs on one machine: ``python -m benchmarks``.

Write ``report.md`` and ``report.json``. `make bench` calls this.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.ground import running_ground
from benchmarks.machine import CODE, code, load, machine
from benchmarks.measuring import MeasuringError
from benchmarks.plan import FULL, QUICK, Sizes, baselines
from benchmarks.report import write_reports
from benchmarks.results import Results
from benchmarks.stages import staged_run
from benchmarks.trials import Trials

STAGES: Final = "stages"
REPEATS: Final = 3
_FOLDER: Final = Path(__file__).parent / "report"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the reports; return 1 if a baseline failed."""
    groups = list(dict.fromkeys(baseline.group for baseline in baselines(FULL)))
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, one round: to try it out")
    parser.add_argument("--repeats", type=int, metavar="N", help=f"rounds; {REPEATS} unless quick")
    parser.add_argument(
        "--only", nargs="+", choices=[*groups, STAGES], metavar="NAME", help=", ".join([*groups, STAGES])
    )
    parser.add_argument("--output", type=Path, default=_FOLDER, metavar="FOLDER", help="of the reports")
    options = parser.parse_args(arguments)
    sizes = QUICK if options.quick else FULL
    repeats = options.repeats or (1 if options.quick else REPEATS)
    console = Console(stderr=True)
    try:
        measure_all(options.only or [*groups, STAGES], sizes, repeats, options.output.resolve(), console)
    except MeasuringError as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        return 1
    console.print(f"written: {options.output}/report.md and report.json", highlight=False)
    return 0


def measure_all(only: Sequence[str], sizes: Sizes, repeats: int, folder: Path, console: Console) -> None:
    """Measure round by round, and write the reports after each round.

    Raises:
        MeasuringError: a baseline failed or did not finish its work.
    """
    pairs = [
        (baseline, messages) for baseline in baselines(sizes) if baseline.group in only for messages in baseline.sizes
    ]
    staged = (sizes.base, sizes.middle) if STAGES in only else ()
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=console, transient=True,
    )  # fmt: skip
    with running_ground() as ground, bar:
        task = bar.add_task("warming up", total=repeats * (len(pairs) + len(staged)))
        trials = Trials(ground, sizes)
        results = Results(machine(ground.stack.database_url), sizes is QUICK, sizes, repeats)
        trials.warm_up()
        for repeat in range(1, repeats + 1):
            for baseline, messages in pairs:
                bar.update(task, description=_says(repeat, baseline.name, messages))
                trial = trials.trial(baseline, messages, repeat)
                results.trials.append(trial)
                bar.advance(task)
                console.log(f"{_says(repeat, baseline.name, messages)}: {trial.cpu_seconds:.2f} CPU s", markup=False)
            for messages in staged:
                bar.update(task, description=_says(repeat, STAGES, messages))
                results.staged.append(staged_run(trials, messages, repeat))
                bar.advance(task)
            results.machine["load at the end"] = load()
            if code() not in results.machine[CODE]:
                results.machine[CODE] += f"; **changed while it was measured**, {code()} after round {repeat}"
            results.repeats = repeat
            write_reports(results, folder)


def _says(repeat: int, name: str, messages: int) -> str:
    return f"round {repeat}: {name}, {messages:,}"


if __name__ == "__main__":
    sys.exit(main())
