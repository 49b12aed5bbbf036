"""Run the main job in its own process, which stops itself at a given point.

    python -m loginpipe_tests.crash.run_job --folder DIR --stop-at written --how kill

The environment names the queue and the database. The process creates the file ``reached`` in the folder at the point,
and ``report.json`` if it ends by itself. A run that is held continues as soon as there is a file ``release``.
"""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

import dagster as dg

from loginpipe.definitions import build_definitions
from loginpipe.defs.ingest.job import INGEST_JOB
from loginpipe_tests.crash.points import Point, stopping_at

SIGNALS: Final = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "interrupt": signal.SIGINT}
HANG: Final = "hang"
HANG_ALONE: Final = "hang-alone"
"""The run does not receive while it is held."""

_MAX_HELD_SECONDS: Final = 300
_ANSWERED_SECONDS: Final = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; return 0 if it succeeded."""
    parser = argparse.ArgumentParser(prog="python -m loginpipe_tests.crash.run_job", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="of this run's files")
    parser.add_argument("--stop-at", type=Point, choices=list(Point))
    parser.add_argument("--batch", type=int, default=1, help="of which of its batches")
    parser.add_argument("--how", choices=[*SIGNALS, HANG, HANG_ALONE], default=HANG)
    options = parser.parse_args(arguments)
    return run(options.folder, options.stop_at, options.how, options.batch)


def run(folder: Path, stop_at: Point | None, how: str, batch: int = 1) -> int:
    """Run the job and write the report."""
    with (
        stopping_at(stop_at, partial(stop, folder, how), batch=batch, receives=how != HANG_ALONE) as overrides,
        dg.DagsterInstance.ephemeral() as instance,
    ):
        job = build_definitions(overrides).resolve_job_def(INGEST_JOB)
        result = job.execute_in_process(instance=instance, raise_on_error=False)
    report = {
        "run_id": result.run_id,
        "success": result.success,
        "peak_mebibytes": peak_mebibytes(),
    }
    (folder / "report.json").write_text(json.dumps(report))
    return 0 if result.success else 1


def peak_mebibytes() -> float:
    """Return the peak memory of this process."""
    # Of this process only, because getrusage includes the process that it was forked from.
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


def stop(folder: Path, how: str) -> None:
    """Stop this process at the point, in the given way."""
    (folder / "reached").touch()
    if how in {HANG, HANG_ALONE}:
        _hold(folder / "release")
    else:
        os.kill(os.getpid(), SIGNALS[how])
        # The main thread handles the signal a little later. The thread at the point must not continue before that.
        time.sleep(_ANSWERED_SECONDS)


def _hold(release: Path) -> None:
    """Wait as a slow step does: signals are handled."""
    deadline = time.monotonic() + _MAX_HELD_SECONDS
    while not release.exists():
        if time.monotonic() > deadline:
            raise TimeoutError("held, and never released")
        time.sleep(0.02)


if __name__ == "__main__":
    sys.exit(main())
