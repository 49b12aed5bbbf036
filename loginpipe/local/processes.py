"""Starting a program as a service, knowing it again later, and stopping it. Nothing about any one service.

A process is known by its id and its whole command line together. Every service gets its folder on the command line,
so that a match cannot be another folder's service, nor a stranger that was given the id of one that has ended.

The folder holds what is known of its processes, ``stack.json``, and the lock of its one supervisor. The lock shows
whether a supervisor lives: the kernel releases it however the supervisor ends. The file names what to stop if the
supervisor ended without doing so, and which port to use again.
"""

import fcntl
import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from loginpipe.common.errors import LocalStackError

if TYPE_CHECKING:
    import psutil

POLL_SECONDS = 0.02
# How long a supervisor that ends may still hold the lock.
_ENDING_SECONDS = 1


class StoppedError(Exception):
    """A stop was asked for while a service was starting."""


@dataclass(frozen=True)
class Record:
    """What is written down of a process that was started."""

    name: str
    pid: int
    arguments: list[str]
    """The command line without the program, which some platforms report under another name."""
    stop_signal: int = signal.SIGTERM
    """What makes it end in an orderly way."""

    def process(self) -> "psutil.Process | None":
        """Return the process, or None where it has ended, also where its id belongs to another by now."""
        import psutil

        try:
            process = psutil.Process(self.pid)
            # One that is ending, or a zombie that a killed supervisor left behind, has an empty command line.
            return process if process.cmdline()[1:] == self.arguments else None
        except psutil.Error:
            return None

    def stop(self, seconds: float = 60) -> bool:
        """Stop the process and wait until it is gone; kill it after so many seconds.

        Returns:
            Whether it was running.

        Raises:
            LocalStackError: it is another user's, or is not gone so many seconds after it was killed.
        """
        import psutil

        process = self.process()
        if process is None:
            return False
        for number in (self.stop_signal, signal.SIGKILL):
            try:
                # psutil checks once more that the id was not given to another process.
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
    """Wait at most so many seconds until a process has ended; say whether it has."""
    deadline = time.monotonic() + seconds
    while not _has_ended(process):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _has_ended(process: "psutil.Process") -> bool:
    import psutil

    try:
        # A zombie's parent may never take note of its end.
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class Service:
    """A program that was started and writes to a log."""

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
                # Ctrl-C reaches everything in the terminal's group at once; services are stopped in order instead.
                start_new_session=True,
            )
        self.record = Record(name, self._process.pid, list(command[1:]), stop_signal)

    def ended(self) -> bool:
        """Say whether the program has ended."""
        return self._process.poll() is not None

    def failure(self) -> LocalStackError:
        """Say in one line how the program ended, with the last line of its log."""
        return LocalStackError(
            f"{self.record.name} ended with code {self._process.poll()}: {last_line(self.log)} (its log: {self.log})"
        )

    def wait_ready(self, answers: Callable[[], bool], stopping: Event, seconds: float) -> None:
        """Wait until the service answers.

        Raises:
            LocalStackError: it ended, or did not answer within so many seconds.
            StoppedError: `stopping` was set.
        """
        deadline = time.monotonic() + seconds
        while not answers():
            if self.ended():
                raise self.failure()
            if stopping.is_set():
                raise StoppedError
            if time.monotonic() > deadline:
                raise LocalStackError(f"{self.record.name} did not answer in {seconds:.0f} s: see its log, {self.log}")
            stopping.wait(POLL_SECONDS)


def last_line(log: Path) -> str:
    """Return the end of the last line of a log that says anything."""
    lines = (line.strip() for line in reversed(log.read_text(errors="replace").splitlines()))
    return next(filter(None, lines), "nothing was logged")[-300:]


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
