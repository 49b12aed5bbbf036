"""What a folder knows of its stack: ``stack.json``, and the lock that its one supervisor holds.

The lock says whether a supervisor lives: the kernel gives it back however the supervisor ends. The file says what to
stop if it ended without doing so, and which port to take again.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from loginpipe.errors import LocalStackError
from loginpipe.local.processes import Record


@dataclass
class State:
    """The content of ``stack.json``."""

    processes: list[Record] = field(default_factory=list)
    """The supervisor first, then the services in the order they were started."""
    port: int | None = None
    """Where the AWS endpoint listens, on 127.0.0.1; kept over a stop."""
    socket_folder: str | None = None
    """Where Postgres' socket is. Set while the stack is ready."""

    def stop_leftovers(self) -> bool:
        """Stop whatever is recorded and still runs, last started first; say whether there was any."""
        stopped = [record.stop() for record in reversed(self.processes)]
        return any(stopped)


def read_state(folder: Path) -> State:
    """Return what the folder's ``stack.json`` says; an empty state where there is none."""
    try:
        content = json.loads((folder / "stack.json").read_text())
    except FileNotFoundError:
        return State()
    content["processes"] = [Record(**record) for record in content["processes"]]
    return State(**content)


def write_state(folder: Path, state: State) -> None:
    """Replace ``stack.json`` in one step: a reader sees the old one or the new one."""
    new = folder / "stack.json.new"
    new.write_text(json.dumps(asdict(state), indent=2))
    new.replace(folder / "stack.json")


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, as the one who may start and stop services there.

    Raises:
        LocalStackError: another process holds it.
    """
    handle = os.open(folder / "stack.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LocalStackError(
                f"a local stack already runs in {folder}: stop it with `loginpipe local down`"
            ) from None
        yield
    finally:
        with suppress(OSError):
            os.close(handle)
