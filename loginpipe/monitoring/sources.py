"""A source of metrics that may hang, asked so that it holds up nothing."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import Generic, TypeVar

from loginpipe.common.errors import LoginpipeError

T = TypeVar("T")


class Source(Generic[T]):
    """Something to ask, in a thread of its own: while it hangs, the others answer and the next scrape waits anew."""

    def __init__(self, read: Callable[[], T]) -> None:
        self._read = read
        self._asked: Future[T | None] | None = None

    def ask(self) -> None:
        """Begin to ask, unless the last time is still under way."""
        if self._asked is None:
            self._asked = Future()
            # A daemon: the process ends although somebody does not answer.
            Thread(target=self._answer, args=(self._asked,), name="source", daemon=True).start()

    def answer(self, deadline: float) -> T | None:
        """Return the answer; None where the source failed, or did not answer by the deadline.

        Args:
            deadline: by `time.monotonic`.
        """
        asked = self._asked
        if asked is None:
            return None
        try:
            answer = asked.result(max(deadline - time.monotonic(), 0))
        except TimeoutError:
            return None
        finally:
            if asked.done():
                self._asked = None
        return answer

    def _answer(self, asked: "Future[T | None]") -> None:
        try:
            asked.set_result(self._read())
        except LoginpipeError:
            asked.set_result(None)
        except BaseException as error:  # noqa: BLE001  a fault of ours is raised where the answer is waited for
            asked.set_exception(error)
