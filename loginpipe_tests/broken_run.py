"""A run as the command line starts it, that ends itself at a given point: ``python -m loginpipe_tests.broken_run``.

The points are seams of the pipeline; what is on either side of them is the real thing.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any, Final

from dagster._cli import main

from loginpipe.postgres import load
from loginpipe.resources import PostgresResource, SqsResource
from loginpipe.sqs import deletion

SIGNALS: Final = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "interrupt": signal.SIGINT}


def _end(how: str) -> None:
    os.kill(os.getpid(), SIGNALS[how])


def _before(owner: Any, name: str, how: str, *, call: int = 1) -> None:
    """End the run as it comes to the given call of a function."""
    calls = 0
    original: Callable[..., Any] = getattr(owner, name)

    def ending(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            _end(how)
        return original(*args, **kwargs)

    setattr(owner, name, ending)


def _after(owner: Any, name: str, how: str) -> None:
    """End the run as a function has returned."""
    original: Callable[..., Any] = getattr(owner, name)

    def ending(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        _end(how)
        return result

    setattr(owner, name, ending)


POINTS: Final[dict[str, Callable[[str], None]]] = {
    "after the receive": lambda how: _after(SqsResource, "receive", how),
    "after validation, before the rejects are recorded": lambda how: _before(PostgresResource, "record_rejects", how),
    "after the rejects are recorded, before their delete": lambda how: _after(PostgresResource, "record_rejects", how),
    "before the load transaction": lambda how: _before(PostgresResource, "load", how),
    "inside the load transaction": lambda how: _before(load, "insert_sealed", how),
    "after the load's commit, before the deletes": lambda how: _after(PostgresResource, "load", how),
    # The first call deletes the rejects, the next ones the logins.
    "half-way through the deletes": lambda how: _before(deletion, "_delete_ten", how, call=4),
}


if __name__ == "__main__":
    point, how = sys.argv[1:]
    POINTS[point](how)
    sys.argv[1:] = ["asset", "materialize", "-m", "loginpipe.definitions", "--select", "group:login_ingest"]
    main()
