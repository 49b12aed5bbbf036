"""Settings of the Python interpreter for a run, which makes millions of objects without cycles while many threads wait.

To look for cycles all the same takes a third of the CPU of receiving, and at the end of a process, where everything
ends anyway, a second. To change threads every 5 ms takes a sixth of the CPU of a run: while one thread works, each of
the others that has an answer from SQS wakes that often to ask for its turn.
"""

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

# So many objects more than before, instead of 700; and so many times that before older ones are looked at too.
_RARELY = (50_000, 20, 100)

# Instead of 5 ms. A thread that waits for SQS or Postgres gives way at once, whatever this is.
_SWITCH_SECONDS = 0.05

# What each active context has found. The first entry is what was there before all of them.
_FOUND: list[tuple[tuple[int, int, int], float]] = []

_FOUND_LOCK = Lock()


@contextmanager
def tuned_for_a_run() -> Iterator[None]:
    """Collect garbage rarely, and change threads rarely, while the context lasts. Cycles are still found, only later.

    Where several last at once, in threads or one in another, it is as before when the last of them ends, in any order.
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
    """Import without looking for cycles among what is there to stay, and have no later collection look at it either."""
    with tuned_for_a_run():
        yield
        gc.freeze()


def leave_all_at_exit() -> None:
    """Have this process end without a last collection of what Dagster, pandas and others made at their import."""
    atexit.register(gc.freeze)
