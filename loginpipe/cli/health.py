"""The command that looks whether everything is in place."""

from dataclasses import asdict

import typer

from loginpipe.cli.output import Json, out, print_json
from loginpipe.common.settings import load_settings


def doctor(*, as_json: Json = False) -> None:
    """Check queues, database, keys, clocks, Dagster and alerts: each well, or what is wrong and the mend.

    Exits with 1 if something is wrong, so it can serve as a health check.

    Example: loginpipe doctor --json
    """
    from loginpipe.defs.monitoring.dagster_state import DAGSTER_CHECKS
    from loginpipe.monitoring.doctor import examine

    findings = list(examine(load_settings(), DAGSTER_CHECKS))
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            mark = "[green]✓[/]" if finding.well else "[bold red]✗[/]"
            out.print(f"{mark} [bold]{finding.what}[/]", end="  ")
            out.print(finding.says, markup=False)
    if not all(finding.well for finding in findings):
        raise typer.Exit(1)
