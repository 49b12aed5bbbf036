"""Run an execution environment of AWS Lambda in its own process, which kills itself at a point of its first batch.

    python -m loginpipe_tests.crash.run_lambda --folder DIR --stop-at written

It runs the real runtime interface client, with the runtime API and the settings in the environment. It creates the file
``reached`` in the folder at the point.
"""

import argparse
import runpy
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from loginpipe_tests.crash.points import Point, stopping_at
from loginpipe_tests.crash.run_job import stop
from loginpipe_tests.lambda_service import HANDLER


def main(arguments: Sequence[str] | None = None) -> int:
    """Handle calls until the process is killed."""
    parser = argparse.ArgumentParser(prog="python -m loginpipe_tests.crash.run_lambda", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="of this environment's files")
    parser.add_argument("--stop-at", type=Point, choices=list(Point))
    options = parser.parse_args(arguments)
    sys.argv = ["awslambdaric", HANDLER]
    with stopping_at(options.stop_at, partial(stop, options.folder, "kill")):
        runpy.run_module("awslambdaric", run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main())
