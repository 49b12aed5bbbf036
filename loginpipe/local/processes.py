"""Start a program as a service, recognise it later, and stop it. This module knows no particular service.

A process is identified by its id and its whole command line. Every service has its folder on the command line. So a
match is never a service of another folder, nor another process that got the id of an ended one.

The folder holds ``stack.json``, the record of its processes, and the lock of its only supervisor. The lock shows
whether a supervisor is alive, because the kernel releases it in any case when the supervisor ends. The file names the
processes to stop if a supervisor ended without stopping them, and the port to use again.
"""

import fcntl
import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from loginpipe.common.errors import LocalStackError

if TYPE_CHECKING:
    import psutil

POLL_SECONDS = 0.02
# How long an ending supervisor may still hold the lock.
_ENDING_SECONDS = 1


class StoppedError(Exception):
    """A stop was requested while a service was starting."""


@dataclass(frozen=True)
class Record:
    """The record of a started process."""

    name: str
    pid: int
    # The command line without the program, because some platforms report the program under another name.
    arguments: list[str]
    stop_signal: int = signal.SIGTERM

    def process(self) -> "psutil.Process | None":
        """Return the process, or None if it has ended, even if another process now has its id."""
        import psutil

        try:
            process = psutil.Process(self.pid)
            # A process that is ending, or a zombie of a killed supervisor, has an empty command line.
            return process if process.cmdline()[1:] == self.arguments else None
        except psutil.Error:
            return None

    def stop(self, seconds: float = 60) -> bool:
        """Stop the process and wait for its end. Kill it after a timeout in seconds. Return True if it was running."""
        import psutil

        process = self.process()
        if process is None:
            return False
        for number in (self.stop_signal, signal.SIGKILL):
            try:
                # psutil checks again that no other process has the id.
                process.send_signal(number)
            except psutil.NoSuchProcess:
                return True
            except psutil.AccessDenied:
                raise LocalStackError(
                    f"{self.name} (process {self.pid}) is another user's: stop it as that user"
                ) from None
            if _gone_within(process, seconds):
                return True
        raise LocalStackError(f"{self.name} (process {self.pid}) cannot be killed: stop it manually")


def _gone_within(process: "psutil.Process", seconds: float) -> bool:
    """Return True if a process ends within a number of seconds. The parent of a zombie may never collect it."""
    import psutil

    deadline = time.monotonic() + seconds
    with suppress(psutil.NoSuchProcess):
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS)
    return True


class Service:
    """A started program that writes to a log."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str],
        user: str | None = None,
        stop_signal: int = signal.SIGTERM,
    ) -> None:
        self.log = log
        with log.open("wb") as stream:
            self._process = subprocess.Popen(  # noqa: S603 - the callers' own command lines
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=environment,
                user=user,
                # Ctrl-C reaches the whole process group of the terminal, but services must stop in order.
                start_new_session=True,
            )
        self.record = Record(name, self._process.pid, list(command[1:]), stop_signal)

    def require_running(self) -> None:
        """Raise an error if the program has ended: one line with the exit code and the last line of its log."""
        code = self._process.poll()
        if code is not None:
            raise LocalStackError(
                f"{self.record.name} ended with code {code}: {last_line(self.log)} (its log: {self.log})"
            )

    def wait_ready(self, answers: Callable[[], bool], stopped: Callable[[float], bool], seconds: float) -> None:
        """Wait until the service answers. ``stopped`` is `StopRequest.wait`: raise StoppedError if it is so before."""
        deadline = time.monotonic() + seconds
        while not answers():
            self.require_running()
            if time.monotonic() > deadline:
                raise LocalStackError(f"{self.record.name} did not answer in {seconds:.0f} s: see its log, {self.log}")
            if stopped(POLL_SECONDS):
                raise StoppedError


def last_line(log: Path) -> str:
    """Return the end of a log's last line that is not blank."""
    lines = (line.strip() for line in reversed(log.read_text(errors="replace").splitlines()))
    return next(filter(None, lines), "nothing was logged")[-300:]


@dataclass
class State:
    """The content of ``stack.json``."""

    processes: list[Record] = field(default_factory=list)
    """The supervisor first, then the services in the order of their start."""
    port: int | None = None
    """The AWS endpoint's port on 127.0.0.1. A stop does not clear it."""
    socket_folder: str | None = None
    """The folder of Postgres' socket. Set while the stack is ready."""

    def stop_leftovers(self) -> bool:
        """Stop recorded processes that still run, the last started first. Return True if there were any."""
        stopped = [record.stop() for record in reversed(self.processes)]
        return any(stopped)


def read_state(folder: Path) -> State:
    """Read the folder's ``stack.json``. Return an empty state if there is none."""
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
    """Replace ``stack.json`` in one step, so that a reader sees the old or the new file."""
    new = folder / "stack.json.new"
    new.write_text(json.dumps(asdict(state), indent=2))
    new.replace(folder / "stack.json")


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which permits to start and stop services there. Wait for a supervisor that is ending."""
    with (folder / "stack.lock").open("w") as lock:
        deadline = time.monotonic() + _ENDING_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise LocalStackError(
                        f"a local stack already runs in {folder}: stop it with `loginpipe local down`"
                    ) from None
            time.sleep(POLL_SECONDS)
        yield
