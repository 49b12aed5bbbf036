"""Python's garbage collector, told what a run is: it makes objects by the million, with no cycles among them.

Looking for cycles all the same takes a third of the CPU of receiving, and at the end of a process, where everything
goes anyway, a second.
"""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

# So many objects more than before, instead of 700; and so many times that before older ones are looked at too.
_RARELY = (50_000, 20, 100)

# The thresholds that each context under way has found; those of before them all are the first.
_FOUND: list[tuple[int, int, int]] = []

_FOUND_LOCK = Lock()


@contextmanager
def rare_collections() -> Iterator[None]:
    """Collect rarely while the context lasts. What cycles other code makes is still found, only later.

    Where several last at once, in threads or one in another, it is as before when the last of them ends, in any order.
    """
    with _FOUND_LOCK:
        _FOUND.append(gc.get_threshold())
        gc.set_threshold(*_RARELY)
    try:
        yield
    finally:
        with _FOUND_LOCK:
            gc.set_threshold(*_FOUND.pop())


@contextmanager
def imports_that_stay() -> Iterator[None]:
    """Import without looking for cycles among what is there to stay, and have no later collection look at it either."""
    with rare_collections():
        yield
        gc.freeze()


def leave_all_at_exit() -> None:
    """Have this process end without a last collection of what Dagster, pandas and others made at their import."""
    atexit.register(gc.freeze)
