"""The command that serves metrics."""

import signal
from threading import Event
from typing import Annotated

import typer

from loginpipe.cli.output import notes, out
from loginpipe.cli.warehouse import warehouse_url
from loginpipe.common.errors import LoginpipeError
from loginpipe.common.settings import load_settings


def metrics(
    *,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 in a container.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 9464,
    once: Annotated[bool, typer.Option("--once", help="Print them and end.")] = False,
) -> None:
    """Serve metrics for Prometheus at /metrics until interrupted: backlog, delay, batches, rejects and more.

    Example: loginpipe metrics --port 9464
    """
    from prometheus_client import generate_latest, start_http_server

    from loginpipe.monitoring.metrics import registry

    metrics = registry(load_settings(), warehouse_url())
    if once:
        out.print(generate_latest(metrics).decode(), end="", markup=False)
        return
    try:
        server, _ = start_http_server(port, host, metrics)
    except OSError as error:
        raise LoginpipeError(f"cannot listen on {host}:{port} ({error.strerror}): choose another --port") from None
    ended = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    notes.print(f"metrics at http://{host}:{port}/metrics, until interrupted")
    ended.wait()
    server.shutdown()
