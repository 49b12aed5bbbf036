"""Measure the CPU time of named functions in this process, each without its time in other named functions.

Several threads run at the same time, so `time.thread_time` measures each function in its own thread.
"""

import gc
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import wraps
from importlib import import_module
from typing import Any, Final

GARBAGE: Final = "garbage collection"
"""The time of Python's garbage collector, in any function."""

_PACKAGE: Final = "loginpipe"


class Timers:
    """The CPU seconds of every function by label, without the time in other timed functions. Thread-safe.

    Attributes:
        seconds: by label.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._lock = threading.Lock()
        self._threads = threading.local()
        self._collecting = 0.0

    def timed(self, label: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed under a label."""

        @wraps(function)
        def wrapper(*args: Any, **options: Any) -> Any:
            of_others = self._of_others()
            of_others.append(0.0)
            began = time.thread_time()
            try:
                return function(*args, **options)
            finally:
                self._leave(label, time.thread_time() - began)

        return wrapper

    def collected(self, phase: str, _info: Mapping[str, int]) -> None:
        """Add the time of a garbage collection: a callback of `gc`."""
        if phase == "start":
            self._collecting = time.thread_time()
            return
        self._of_others().append(0.0)
        self._leave(GARBAGE, time.thread_time() - self._collecting)

    def _of_others(self) -> list[float]:
        """Return the time that the active functions of this thread have spent in others so far, the innermost last."""
        try:
            return self._threads.of_others  # type: ignore[no-any-return]
        except AttributeError:
            self._threads.of_others = []
            return self._threads.of_others  # type: ignore[no-any-return]

    def _leave(self, label: str, seconds: float) -> None:
        of_others = self._of_others()
        own = seconds - of_others.pop()
        with self._lock:
            self.seconds[label] += own
        if of_others:
            of_others[-1] += seconds


def install(timers: Timers, functions: Mapping[str, str]) -> None:
    """Add timers to functions, in every module of the pipeline that refers to them, and to garbage collection.

    Args:
        timers: receives the seconds.
        functions: `benchmarks.stage_functions.FUNCTIONS`.

    Raises:
        AttributeError: some functions do not exist; names all of them.
    """
    places = {path: place for path in functions if (place := _found(path)) is not None}
    if missing := sorted(functions.keys() - places.keys()):
        raise AttributeError(f"benchmarks/stage_functions.py lists what is not there any more: {', '.join(missing)}")
    modules = [module for name, module in sys.modules.items() if name.partition(".")[0] == _PACKAGE]
    for path, (owner, name) in places.items():
        original = getattr(owner, name)
        timed = timers.timed(functions[path], original)
        setattr(owner, name, timed)
        for module in modules:
            for known_as in [key for key, value in vars(module).items() if value is original]:
                setattr(module, known_as, timed)
    gc.callbacks.append(timers.collected)


def _found(path: str) -> tuple[Any, str] | None:
    """Return the owner of an attribute and the attribute's name, or None if it does not exist."""
    module, _, attribute = path.partition(":")
    *owners, name = attribute.split(".")
    try:
        holder: Any = import_module(module)
        for owner in owners:
            holder = getattr(holder, owner)
    except (ImportError, AttributeError):
        return None
    return (holder, name) if callable(getattr(holder, name, None)) else None
