"""The operator's commands. Thin: each reads its options, calls the package that does the work, and prints.

A `LoginpipeError` becomes one line on stderr and exit code 1. The packages are imported where they are used, so that
``--help`` answers at once and the core runs without the ``local`` extra.
"""

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from loginpipe.cli import archive, bulk, check, keys, local, monitoring, pii, queue, rejects, warehouse
from loginpipe.cli.output import new_app, out
from loginpipe.common.errors import LoginpipeError

app = new_app(
    "Load login events from an SQS queue into the Postgres table user_logins, with personal data masked.",
    completion=True,
)


def _print_version(asked: bool) -> None:
    if asked:
        out.print(f"loginpipe {version('loginpipe')}")
        raise typer.Exit


@app.callback()
def _program(
    *,
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Take the options of the program itself."""


app.command()(local.demo)
app.command()(local.dev)
app.add_typer(local.app, name="local")
app.command()(warehouse.migrate)
app.command()(queue.send)
app.command()(check.check)
app.command()(monitoring.doctor)
app.command()(monitoring.metrics)
app.add_typer(monitoring.alerts, name="alerts")
app.add_typer(rejects.app, name="rejects")
app.add_typer(bulk.extras, name="extras")
app.add_typer(queue.app, name="dlq")
app.add_typer(archive.app, name="archive")
app.add_typer(warehouse.app, name="backup")
app.add_typer(warehouse.insights, name="insights")
app.add_typer(keys.app, name="keys")
app.add_typer(pii.app, name="pii")


def main() -> None:
    """Run the command line."""
    if sys.platform == "win32":
        sys.exit("error: loginpipe runs on Linux, macOS and WSL 2: on Windows, install it in WSL 2")
    try:
        app()
    except LoginpipeError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - plain, whatever characters a message has
        sys.exit(1)
