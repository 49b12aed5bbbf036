"""Run ``dagster ARGUMENTS...`` with timers and write the result to FILE: ``staged FILE ARGUMENTS...``."""

import json
import sys
from pathlib import Path

from dagster._cli import create_dagster_cli

import loginpipe.definitions  # noqa: F401 - what is timed must have been imported
from benchmarks.stage_functions import FUNCTIONS
from benchmarks.timers import Timers, install


def main() -> None:
    """Run, then write the CPU seconds of each function."""
    timers = Timers()
    install(timers, FUNCTIONS)
    create_dagster_cli()(sys.argv[2:], standalone_mode=False)  # type: ignore[no-untyped-call]
    Path(sys.argv[1]).write_text(json.dumps(timers.seconds))


if __name__ == "__main__":
    main()
