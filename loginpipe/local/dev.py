"""Run ``dg dev`` as a child. The web server, the daemon and their code servers end with this process, in order."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from types import FrameType

from loginpipe.common.errors import LocalStackError

# `dg dev` gives its processes up to 60 seconds to end.
_STOP_SECONDS = 60
# The package cannot run with -m, and its program may not be in PATH.
_DG = "from dagster_dg_cli.cli import main; main()"


def require_free(port: int) -> None:
    """Refuse a port of 127.0.0.1 that another program uses, because ``dg dev`` would continue without its UI."""
    with socket.socket() as probe:
        # Ignore connections that ended recently.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise LocalStackError(
                f"port {port} of 127.0.0.1 cannot be used ({error.strerror}): choose another with --port"
            ) from None


def run_dagster_dev(port: int) -> int:
    """Run the Dagster UI and daemon for the project in the current folder until interrupted or terminated.

    The UI uses a port of 127.0.0.1, because it has no authentication. Return the exit code of ``dg dev``, or 0 if this
    process ended it.
    """
    # A shell makes background processes ignore SIGINT, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _interrupt)
    command = [sys.executable, "-c", _DG, "dev", "--workspace", "workspace.yaml", "--host", "127.0.0.1"]
    command += ["--port", str(port)]
    # In a session of its own, so that only this process gets Ctrl-C, and passes it on once.
    dagster = subprocess.Popen(command, env=os.environ, start_new_session=True)  # noqa: S603 - our own command line
    try:
        return dagster.wait()
    except KeyboardInterrupt:
        dagster.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            dagster.wait(_STOP_SECONDS)
        return 0
    finally:
        # The rest of its session, such as code servers that wait for a heartbeat.
        with suppress(ProcessLookupError):
            os.killpg(dagster.pid, signal.SIGKILL)
        dagster.wait()


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
