"""What a folder knows of its stack: ``stack.json``, and the lock that its one supervisor holds.

The lock says whether a supervisor lives: the kernel gives it back however the supervisor ends. The file says what to
stop if it ended without doing so, and which port to take again.
"""

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from loginpipe.common.errors import LocalStackError
from loginpipe.local.processes import POLL_SECONDS, Record

_ENDING_SECONDS = 1


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
    """Return what the folder's ``stack.json`` says; an empty state where there is none.

    Raises:
        LocalStackError: the file is not what this version writes.
    """
    path = folder / "stack.json"
    try:
        content = json.loads(path.read_text())
        content["processes"] = [Record(**record) for record in content["processes"]]
        return State(**content)
    except FileNotFoundError:
        return State()
    except (ValueError, TypeError, KeyError):
        raise LocalStackError(f"{path} is not what this version writes: stop what runs there, and delete it") from None


def write_state(folder: Path, state: State) -> None:
    """Replace ``stack.json`` in one step: a reader sees the old one or the new one."""
    new = folder / "stack.json.new"
    new.write_text(json.dumps(asdict(state), indent=2))
    new.replace(folder / "stack.json")


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, as the one who may start and stop services there.

    Raises:
        LocalStackError: another process holds it, and does so for longer than an ending one would.
    """
    with (folder / "stack.lock").open("w") as lock:
        deadline = time.monotonic() + _ENDING_SECONDS
        while not _locked(lock.fileno()):
            if time.monotonic() > deadline:
                raise LocalStackError(f"a local stack already runs in {folder}: stop it with `loginpipe local down`")
            time.sleep(POLL_SECONDS)
        yield


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
