"""The pipeline's run with timers in it: ``staged FILE ARGUMENTS...`` is ``dagster ARGUMENTS...``, and writes a FILE."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._cli import create_dagster_cli

import loginpipe.definitions  # noqa: F401 - what is timed must have been imported
from benchmarks.stage_functions import FUNCTIONS
from benchmarks.timers import Timers, install


def main() -> None:
    """Run, then write the CPU seconds of the process, its steps and the functions in them."""
    timers = Timers()
    install(timers, FUNCTIONS)
    follow_steps(timers)
    create_dagster_cli()(sys.argv[2:], standalone_mode=False)  # type: ignore[no-untyped-call]
    report = {
        "cpu_seconds": time.process_time(),
        "before_steps": timers.first_step,
        "after_steps": timers.last_step,
        "steps": timers.steps,
        "functions": [[step, label, seconds] for (step, label), seconds in timers.seconds.items()],
    }
    Path(sys.argv[1]).write_text(json.dumps(report))


def follow_steps(timers: Timers) -> None:
    """Have the timers know which step is at work, by the events that Dagster stores."""
    handle = dg.DagsterInstance.handle_new_event

    def handled(instance: dg.DagsterInstance, event: dg.EventLogEntry, *args: Any, **options: Any) -> None:
        of_dagster = event.dagster_event
        if of_dagster is not None and of_dagster.is_step_start:
            timers.begin_step(str(of_dagster.step_key))
        handle(instance, event, *args, **options)
        if of_dagster is not None and (of_dagster.is_step_success or of_dagster.is_step_failure):
            timers.end_step()

    dg.DagsterInstance.handle_new_event = handled  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    main()
