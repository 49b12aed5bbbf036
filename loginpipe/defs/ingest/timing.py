"""How long a stage took, for the one record that it logs."""

import time
from collections.abc import Callable


def stopwatch() -> Callable[[], float]:
    """Return what gives the seconds since this call, to the millisecond; no change of the clock disturbs it."""
    began = time.monotonic()
    return lambda: round(time.monotonic() - began, 3)
