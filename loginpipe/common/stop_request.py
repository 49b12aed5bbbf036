"""Wait for a signal to stop."""

import os
import select
import signal
from contextlib import suppress


class StopRequest:
    """Takes SIGTERM and SIGINT for the rest of the process, and waits for the first of them, in the main thread.

    It takes no lock. An `Event` does, and so does the start of a thread that would set it: a handler that wants the
    lock which the code under it holds waits for ever.
    """

    def __init__(self, *, also_at_end_of: int | None = None) -> None:
        """``also_at_end_of`` is the descriptor of an input in which nothing is written: its end is a request too."""
        woken, self._waker = os.pipe()
        os.set_blocking(self._waker, False)
        self._inputs = [woken] if also_at_end_of is None else [woken, also_at_end_of]
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._wake)

    def wait(self, seconds: float | None = None) -> bool:
        """Return True as soon as a stop is requested, or False after a number of seconds."""
        return bool(select.select(self._inputs, [], [], seconds)[0])

    def _wake(self, *_: object) -> None:
        with suppress(BlockingIOError):  # full: it is awake
            os.write(self._waker, b".")
