"""The command for alerts."""

from datetime import UTC, datetime

import typer

from loginpipe.cli.output import Json, new_app, out, print_json
from loginpipe.common.errors import AlertError, SettingError
from loginpipe.common.settings import load_settings

app = new_app("Alerts, by a webhook and by SNS.")


@app.callback()
def _group() -> None:
    """Keep it a group, though it has one command."""


@app.command("test")
def send_test(*, as_json: Json = False) -> None:
    """Send a test message by every channel that is set, and say of each whether it was taken.

    Exits with 1 if one was not.

    Example: loginpipe alerts test
    """
    from loginpipe.monitoring.alerts.delivery import channels

    settings = load_settings()
    ways = channels(settings)
    if not ways:
        raise SettingError(
            "alerts go nowhere: set LOGINPIPE_ALERT_WEBHOOK_URL to the URL of a webhook, or LOGINPIPE_ALERT_SNS_TOPIC "
            "to the ARN of a topic"
        )
    subject = f"loginpipe, {settings.queue_name}: a test"
    text = f"{subject}, sent at {datetime.now(UTC):%Y-%m-%d %H:%M} UTC. Nothing is to be done."
    faults: dict[str, str | None] = {}
    for way in ways:
        try:
            way.deliver(subject, text)
            faults[way.place] = None
        except AlertError as error:
            faults[way.place] = str(error)
    if as_json:
        print_json([{"channel": place, "delivered": fault is None, "says": fault} for place, fault in faults.items()])
    else:
        for place, fault in faults.items():
            out.print("[green]✓[/]" if fault is None else "[bold red]✗[/]", end=" ")
            out.print(f"{place} has taken it" if fault is None else fault, markup=False)
    if any(faults.values()):
        raise typer.Exit(1)
