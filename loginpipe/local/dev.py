"""``dg dev`` as a child: the web server, the daemon and their code servers end with us, in order."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from types import FrameType

from loginpipe.common.errors import LocalStackError

# `dg dev` gives its own processes up to 60 seconds to end.
_STOP_SECONDS = 60
# The package cannot be run with -m, and its program need not be on the path.
_DG = "from dagster_dg_cli.cli import main; main()"


def require_free(port: int) -> None:
    """Refuse a port of 127.0.0.1 on which another program listens: ``dg dev`` would go on without its UI.

    Raises:
        LocalStackError: it is taken, or may not be used.
    """
    with socket.socket() as probe:
        # A connection that ended a moment ago is no reason.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise LocalStackError(
                f"port {port} of 127.0.0.1 cannot be used ({error.strerror}): choose another with --port"
            ) from None


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
