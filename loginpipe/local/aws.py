"""Start the embedded AWS endpoint, MiniStack, on a free port of 127.0.0.1."""

import os
import socket
import sys
import urllib.request
from collections.abc import Callable
from functools import partial
from http.client import HTTPException
from pathlib import Path

from loginpipe.common.errors import LocalStackError
from loginpipe.local.processes import Record, Service

HOST = "127.0.0.1"

_ATTEMPTS = 5
_START_SECONDS = 60


def start_aws(
    folder: Path, *, port: int | None, throwaway: bool, note: Callable[[Record], None], stopped: Callable[[float], bool]
) -> tuple[Service, int]:
    """Start the endpoint, and return it with its port. The arguments and errors are those of `start_postgres`.

    `port` is the preferred port, if it is free. The state goes to ``folder/aws``.
    """
    (folder / "aws").mkdir(mode=0o700, exist_ok=True)
    chosen = _free_port() if port is None or _taken(port) else port
    for attempt in range(1, _ATTEMPTS + 1):
        if port is not None:
            _move_queue_urls(folder, port, chosen)
        port = chosen
        service = _launched(folder, chosen, throwaway=throwaway)
        note(service.record)
        try:
            service.wait_ready(partial(_answers, service, chosen), stopped, _START_SECONDS)
        except LocalStackError:
            # Another program can take a port between its choice and its use.
            if attempt == _ATTEMPTS or not _taken(chosen):
                raise
            chosen = _free_port()
        else:
            return service, chosen
    raise AssertionError  # the last attempt returned or raised


def _launched(folder: Path, port: int, *, throwaway: bool) -> Service:
    environment = {
        **os.environ,
        "BIND_HOST": HOST,
        "GATEWAY_PORT": str(port),
        "LOG_LEVEL": "WARNING",
        "PERSIST_STATE": "0" if throwaway else "1",
        "STATE_DIR": str(folder / "aws"),
        # So its process file is deleted with the folder.
        "TMPDIR": str(folder / "aws"),
        # Both would listen on every interface and on a fixed port.
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        # MiniStack removes containers of other MiniStacks at start and stop, so it gets no Docker.
        "DOCKER_HOST": f"unix://{folder}/aws/no-docker.sock",
    }
    # Python ignores unknown -X options. This one puts the folder on the command line.
    command = [sys.executable, "-X", f"loginpipe_folder={folder}", "-m", "ministack"]
    return Service("the AWS endpoint", command, folder / "aws.log", environment=environment)


def _move_queue_urls(folder: Path, port: int, new: int) -> None:
    """Write the new port into the saved queues' URLs, because a client may connect to them."""
    queues = folder / "aws" / "sqs.json"
    if port != new and queues.exists():
        queues.write_text(queues.read_text().replace(f"http://localhost:{port}/", f"http://localhost:{new}/"))


def _answers(service: Service, port: int) -> bool:
    import psutil

    try:
        # Without the proxy that the environment may set.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{HOST}:{port}/_ministack/health", timeout=2) as answer:
            if answer.status != 200:  # noqa: PLR2004
                return False
    except (OSError, HTTPException):
        return False
    # Another MiniStack may have taken the port and answer instead.
    process = service.record.process()
    try:
        return process is not None and any(
            connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
            for connection in process.net_connections("tcp4")
        )
    except psutil.Error:
        return False


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        if probe.connect_ex((HOST, port)) == 0:
            return True
    with socket.socket() as probe:
        # The endpoint sets this too, so that expired connections of an earlier one do not block the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
