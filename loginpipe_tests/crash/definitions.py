"""The project's definitions for runs that Dagster starts itself.

The variables ``CRASH_FOLDER`` and ``CRASH_STOP_AT`` take the place of `run_job`'s options. The run waits at the point.
"""

import os
from functools import partial
from pathlib import Path

from loginpipe.definitions import build_definitions
from loginpipe_tests.crash.points import Point, stopping_at
from loginpipe_tests.crash.run_job import HANG, stop

_stopping = stopping_at(
    Point(os.environ["CRASH_STOP_AT"]),
    partial(stop, Path(os.environ["CRASH_FOLDER"]), HANG),
    batch=int(os.environ.get("CRASH_BATCH", "1")),
)

# The hooks stay for as long as the process lives.
defs = build_definitions(_stopping.__enter__())
