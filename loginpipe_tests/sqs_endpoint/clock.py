"""The endpoint's clock, which tests set forward. It starts at the wall-clock time and does not jump with it."""

import time


class Clock:
    """Seconds since the epoch."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Set the clock to the time of the machine."""
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        """Return the time."""
        return time.monotonic() + self._offset

    def advance(self, seconds: float) -> None:
        """Set the clock forward."""
        self._offset += seconds
