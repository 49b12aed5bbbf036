"""CPU time of named functions in this process, each without what it spends in others of them.

Steps run one after another on the main thread, and `time.process_time` counts all threads: what passes between the
begin and the end of a function on the main thread is the CPU time of the whole process meanwhile. A function on another
thread is timed by `time.thread_time`, within the function of the main thread that waits for it.
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
"""What Python's collector of cycles takes, wherever it strikes."""

_PACKAGE: Final = "loginpipe"
_Place = tuple[str, str]


class Timers:
    """The seconds of every function by step and label. Safe to use from several threads.

    Attributes:
        seconds: by step and label, each without what was spent in others; the step is empty outside of any.
        steps: by step, all of it.
        first_step: process time when the first step began.
        last_step: process time when the last one ended.
    """

    def __init__(self) -> None:
        self.first_step = self.last_step = 0.0
        self.seconds: defaultdict[_Place, float] = defaultdict(float)
        self.steps: defaultdict[str, float] = defaultdict(float)
        self._step: tuple[str, float] | None = None
        self._lock = threading.Lock()
        self._main: list[list[Any]] = []
        self._threads = threading.local()
        self._collecting = 0.0

    def begin_step(self, name: str) -> None:
        """From now on, until `end_step`, time belongs to this step."""
        self._step = (name, time.process_time())
        self.first_step = self.first_step or self._step[1]

    def end_step(self) -> None:
        """The step is over."""
        if self._step is not None:
            name, began = self._step
            self.last_step = time.process_time()
            self.steps[name] += self.last_step - began
            self._step = None

    def timed(self, label: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed under a label."""

        @wraps(function)
        def wrapper(*args: Any, **options: Any) -> Any:
            on_main = threading.current_thread() is threading.main_thread()
            clock = time.process_time if on_main else time.thread_time
            frames = self._main if on_main else self._frames()
            frames.append([label, 0.0])
            began = clock()
            try:
                return function(*args, **options)
            finally:
                self._leave(frames, clock() - began, on_main=on_main)

        return wrapper

    def collected(self, phase: str, _info: Mapping[str, int]) -> None:
        """Take the time of a garbage collection: a callback of `gc`."""
        if phase == "start":
            self._collecting = time.thread_time()
            return
        on_main = threading.current_thread() is threading.main_thread()
        frames = self._main if on_main else self._frames()
        frames.append([GARBAGE, 0.0])
        self._leave(frames, time.thread_time() - self._collecting, on_main=on_main)

    def _frames(self) -> list[list[Any]]:
        try:
            return self._threads.frames  # type: ignore[no-any-return]
        except AttributeError:
            self._threads.frames = []
            return self._threads.frames  # type: ignore[no-any-return]

    def _leave(self, frames: list[list[Any]], seconds: float, *, on_main: bool) -> None:
        label, of_others = frames.pop()
        with self._lock:
            self.seconds[self._step[0] if self._step else "", label] += seconds - of_others
            # What a thread did is in the process time of whoever waits for it on the main thread.
            waiting = frames if frames or on_main else self._main
            if waiting:
                waiting[-1][1] += seconds


def install(timers: Timers, functions: Mapping[str, str]) -> None:
    """Put timers around functions, wherever a module of the pipeline knows them, and around garbage collection.

    Args:
        timers: where the seconds go.
        functions: `benchmarks.stage_functions.FUNCTIONS`.

    Raises:
        AttributeError: some of the functions do not exist; names all of them.
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
    """Return what holds an attribute, and its name there; None where there is none."""
    module, _, attribute = path.partition(":")
    *owners, name = attribute.split(".")
    try:
        holder: Any = import_module(module)
        for owner in owners:
            holder = getattr(holder, owner)
    except (ImportError, AttributeError):
        return None
    return (holder, name) if callable(getattr(holder, name, None)) else None
