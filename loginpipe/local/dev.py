"""``dg dev`` as a child: the web server, the daemon and their code servers end with us, in order."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from types import FrameType

# `dg dev` gives its own processes up to 60 seconds to end.
_STOP_SECONDS = 60
# The package cannot be run with -m, and its program need not be on the path.
_DG = "from dagster_dg_cli.cli import main; main()"


def run_dagster_dev(port: int) -> int:
    """Run the Dagster UI and daemon for the project in the current folder, until interrupted or terminated.

    Args:
        port: of the UI, on 127.0.0.1: it has no authentication.

    Returns:
        The exit code of ``dg dev``; 0 where we ended it.
    """
    # A shell that starts us in the background lets us, and so our children, ignore SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _interrupt)
    command = [sys.executable, "-c", _DG, "dev", "--workspace", "workspace.yaml", "--host", "127.0.0.1"]
    command += ["--port", str(port)]
    # A session of its own: Ctrl-C is for us, and we pass it on once.
    dagster = subprocess.Popen(command, env=os.environ, start_new_session=True)  # noqa: S603 - our own command line
    try:
        return dagster.wait()
    except KeyboardInterrupt:
        dagster.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            dagster.wait(_STOP_SECONDS)
        return 0
    finally:
        # Whatever of its session is left, such as code servers that wait for a heartbeat.
        with suppress(ProcessLookupError):
            os.killpg(dagster.pid, signal.SIGKILL)
        dagster.wait()


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
