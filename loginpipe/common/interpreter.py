"""Tune the Python interpreter for a run, which makes millions of objects without cycles while many threads wait.

By default, garbage collection takes a third of the CPU of receiving, and one second at the end of the process, where
it is useless. Thread switches every 5 ms take a sixth of the CPU of a run: while one thread runs, each other thread
that has a response from SQS wakes at this interval to request its turn.
"""

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

# The thresholds of the garbage collector's generations: the first is 700 objects by default.
_RARELY = (50_000, 20, 100)
# Instead of 5 ms. A thread that waits for SQS or Postgres yields immediately with any value.
_SWITCH_SECONDS = 0.05

# The settings before each active context. The first entry has those before all contexts.
_FOUND: list[tuple[tuple[int, int, int], float]] = []
_FOUND_LOCK = Lock()


@contextmanager
def tuned_for_a_run() -> Iterator[None]:
    """Collect garbage and switch threads less often within the context. Cycles are still found, only later.

    Contexts may overlap, in threads or nested. When the last one ends, the original settings return.
    """
    with _FOUND_LOCK:
        _FOUND.append((gc.get_threshold(), sys.getswitchinterval()))
        gc.set_threshold(*_RARELY)
        sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        yield
    finally:
        with _FOUND_LOCK:
            threshold, switch_interval = _FOUND.pop()
            gc.set_threshold(*threshold)
            sys.setswitchinterval(switch_interval)


@contextmanager
def imports_that_stay() -> Iterator[None]:
    """Import without garbage collection of what stays, and exclude it from later collections too."""
    with tuned_for_a_run():
        yield
        gc.freeze()


def leave_all_at_exit() -> None:
    """Skip the last garbage collection at exit, mostly of what imports of Dagster, pandas and others made."""
    atexit.register(gc.freeze)
