"""The commands for the embedded services."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from loginpipe.cli.output import Json, new_app, notes, out, print_json, print_result, step

LOCAL_FOLDER = Path(".loginpipe")
"""Where the local stack of a project folder keeps data and keys; git-ignored."""

app = new_app("Embedded Postgres and SQS endpoint, running in the background.")


def demo(
    count: Annotated[int, typer.Option(help="Login events to send.", min=1, max=100_000)] = 1000,
    *,
    as_json: Json = False,
) -> None:
    """Run the ingest job on embedded services and show the result.

    Example: loginpipe demo --count 5000
    """
    from loginpipe.local.demo import run_demo, show_demo

    result = run_demo(count, step)
    if as_json:
        tables = {
            title: [dict(zip(t.columns, row, strict=True)) for row in t.rows] for title, t in result.tables.items()
        }
        counts = {"counts": result.counts, "reasons": result.reasons}
        print_json({**counts, "tables": tables, "run_seconds": round(result.run_seconds, 3)})
    else:
        show_demo(out, result)


def dev(
    port: Annotated[int, typer.Option(help="Port of the Dagster UI, on 127.0.0.1.", min=1, max=65535)] = 3000,
) -> None:
    """Run the embedded services and the Dagster UI until you press Ctrl-C. Data is kept in .loginpipe.

    Example: loginpipe dev --port 3001
    """
    from loginpipe.local.dev import require_free, run_dagster_dev
    from loginpipe.local.stack import attach_or_start

    require_free(port)
    with attach_or_start(LOCAL_FOLDER) as stack:
        _make_ready(stack)
        notes.print(
            f"The UI will be at http://127.0.0.1:{port} . A sensor ingests the messages on the queue. To send some, "
            "run in another terminal:\n\n    loginpipe send --count 500\n"
        )
        code = run_dagster_dev(port)
    raise typer.Exit(code)


@app.command()
def up(*, as_json: Json = False) -> None:
    """Start the embedded services in the background and write their settings to .env, which dg and dagster read.

    Example: loginpipe local up && dg launch --assets group:login_ingest
    """
    from loginpipe.local.environment import dagster_home
    from loginpipe.local.postgres import psql
    from loginpipe.local.stack import up

    # Before anything starts, because it would keep running in the background.
    dagster_home(Path())
    with step("start Postgres and an SQS endpoint"):
        stack = up(LOCAL_FOLDER)
    variables = _make_ready(stack)
    if as_json:
        print_json(variables)
        return
    out.print(
        f"Postgres       {stack.database_url}\nAWS endpoint   {stack.endpoint_url}\nQueue          "
        f"{variables['LOGINPIPE_QUEUE']}\nSettings       .env\n\n"
        f"To look into the tables:\n    {psql()} '{stack.database_url}'\n\n"
        "Next:\n"
        "    loginpipe send --count 500\n"
        "    dg launch --assets group:login_ingest\n"
        "    dg dev"
    )


@app.command()
def down(*, as_json: Json = False) -> None:
    """Stop the embedded services; their data stays in .loginpipe.

    Example: loginpipe local down
    """
    from loginpipe.local.stack import down

    stopped = down(LOCAL_FOLDER)
    print_result({"stopped": stopped}, "stopped" if stopped else "nothing was running", as_json=as_json)


def _make_ready(stack: Any) -> dict[str, str]:
    from loginpipe.local.environment import dagster_home, dagster_storage_is_empty, prepare, write_env_file

    with step("create missing keys, tables and queues"):
        variables = {**prepare(stack), "DAGSTER_HOME": str(dagster_home(Path()))}
        kept = write_env_file(Path(".env"), variables)
    if kept:
        notes.print(f"[yellow]note:[/] .env already sets {', '.join(kept)}; your values are kept")
    os.environ.update({name: value for name, value in variables.items() if name not in kept})
    # A storage of the user's own is not ours to begin.
    if "DAGSTER_POSTGRES_URL" not in kept and dagster_storage_is_empty(stack):
        from loginpipe.defs.instance import begin_storage

        with step("create Dagster's storage"):
            begin_storage(Path(variables["DAGSTER_HOME"]))
    return variables
