"""The commands for monitoring: doctor, metrics, alerts."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

from loginpipe.cli.output import Json, new_app, notes, out, print_json
from loginpipe.common.errors import AlertError, LoginpipeError, SettingError
from loginpipe.common.secrets import database_url
from loginpipe.common.settings import load_settings
from loginpipe.common.stop_request import StopRequest

if TYPE_CHECKING:
    from loginpipe.monitoring.doctor import Check

alerts = new_app("Alerts by webhook and SNS.")


def doctor(*, as_json: Json = False) -> None:
    """Check queues, database, keys, clocks, Dagster and alerts, and show how to fix each problem.

    Exits with 1 if a check fails, so you can use it as a health check.

    Example: loginpipe doctor --json
    """
    from loginpipe.monitoring.doctor import examine

    findings = list(examine(load_settings(), _dagster_checks()))
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            mark = "[green]✓[/]" if finding.ok else "[bold red]✗[/]"
            if finding.warns:
                mark = "[bold yellow]![/]"
            out.print(f"{mark} [bold]{finding.what}[/]", end="  ")
            out.print(finding.message, markup=False)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


def _dagster_checks() -> "Mapping[str, Check]":
    if find_spec("dagster") is None:
        return {}
    from loginpipe.defs.monitoring.dagster_state import DAGSTER_CHECKS

    return DAGSTER_CHECKS


def metrics(
    *,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 in a container.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 9464,
    once: Annotated[bool, typer.Option("--once", help="Print the metrics once and exit.")] = False,
    emf: Annotated[
        bool, typer.Option("--emf", help="Print the metrics every minute, in CloudWatch's embedded metric format.")
    ] = False,
) -> None:
    """Serve metrics for Prometheus at /metrics until interrupted: backlog, delay, runs, messages, rejects and more.

    Example: loginpipe metrics --port 9464, or: loginpipe metrics --emf
    """
    from prometheus_client import generate_latest, start_http_server

    from loginpipe.monitoring.metrics import INTERVAL_SECONDS, EmfRecords, registry

    settings = load_settings()
    metrics = registry(settings, database_url(settings))
    if emf:
        stop = StopRequest()
        records = EmfRecords(settings.queue_name)
        while True:
            for record in records.records(metrics.collect(), time.time()):
                print(json.dumps(record), flush=True)  # noqa: T201 - a line each, whatever the width
            if once or stop.wait(INTERVAL_SECONDS):
                return
    if once:
        out.print(generate_latest(metrics).decode(), end="", markup=False)
        return
    try:
        server, _ = start_http_server(port, host, metrics)
    except OSError as error:
        raise LoginpipeError(f"cannot listen on {host}:{port} ({error.strerror}): choose another --port") from None
    stop = StopRequest()
    notes.print(f"metrics at http://{host}:{port}/metrics; press Ctrl-C to stop")
    stop.wait()
    server.shutdown()


@alerts.callback()
def _group() -> None:
    """Keep it a group, though it has one command."""


@alerts.command("test")
def send_test(*, as_json: Json = False) -> None:
    """Send a test message to every configured channel, and show whether each accepted it.

    Exits with 1 if a channel did not accept it.

    Example: loginpipe alerts test
    """
    from loginpipe.monitoring.alert_delivery import channels

    settings = load_settings()
    ways = channels(settings)
    if not ways:
        raise SettingError(
            "no alert channel is configured: set LOGINPIPE_ALERT_WEBHOOK_URL to the URL of a webhook, or "
            "LOGINPIPE_ALERT_SNS_TOPIC to the ARN of a topic"
        )
    subject = f"loginpipe, {settings.queue_name}: test message"
    text = f"{subject}, sent at {datetime.now(UTC):%Y-%m-%d %H:%M} UTC. No action is needed."
    outcomes: list[tuple[str, str | None]] = []
    for way in ways:
        try:
            way.deliver(subject, text)
            outcomes.append((way.place, None))
        except AlertError as error:
            outcomes.append((way.place, str(error)))
    if as_json:
        print_json([{"channel": place, "delivered": not problem, "message": problem} for place, problem in outcomes])
    else:
        for place, problem in outcomes:
            out.print("[bold red]✗[/]" if problem else "[green]✓[/]", end=" ")
            out.print(problem or f"{place} accepted the message", markup=False)
    if any(problem for _, problem in outcomes):
        raise typer.Exit(1)
