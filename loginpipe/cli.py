"""The operator's commands. Thin: each reads its options, calls the package that does the work, and prints.

An error of ours is one line on stderr and exit code 1. The packages are imported where they are used, so that
``--help`` answers at once and the core runs without the ``local`` extra.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import Progress

from loginpipe.errors import LoginpipeError, SettingError
from loginpipe.settings import load_settings, required

LOCAL_FOLDER: Final = Path(".loginpipe")
"""Where the local stack of a project folder keeps data and keys; git-ignored."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]

_OPTIONS: Final[dict[str, Any]] = {"no_args_is_help": True, "pretty_exceptions_enable": False, "add_completion": False}

app = typer.Typer(
    help="Login events from an SQS queue into the Postgres table user_logins, with the personal data masked.",
    **_OPTIONS,
)
local_app = typer.Typer(help="The embedded services in the background.", **_OPTIONS)
keys_app = typer.Typer(help="The keys that values are masked and sealed with.", **_OPTIONS)
app.add_typer(local_app, name="local")
app.add_typer(keys_app, name="keys")

out = Console(highlight=False)
notes = Console(stderr=True, highlight=False)


def main() -> None:
    """Run the command line."""
    try:
        app()
    except LoginpipeError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - plain, whatever characters a message has
        sys.exit(1)


@app.command()
def demo(
    count: Annotated[int, typer.Option(help="Login events to send.", min=1, max=100_000)] = 1000,
    *,
    as_json: Json = False,
) -> None:
    """Run the main job once on embedded services, and show what came out.

    Example: loginpipe demo --count 5000
    """
    from loginpipe.local.demo import run_demo
    from loginpipe.local.show import show_demo

    result = run_demo(count, _step)
    if as_json:
        _print_json({"counts": result.counts, "reasons": result.reasons, "run_seconds": round(result.run_seconds, 3)})
    else:
        show_demo(out, result)


@app.command()
def dev(port: Annotated[int, typer.Option(help="Port of the Dagster UI, on 127.0.0.1.")] = 3000) -> None:
    """Start the embedded services and the Dagster UI, until interrupted. Data is kept in .loginpipe.

    Example: loginpipe dev --port 3001
    """
    from loginpipe.local.dev import run_dagster_dev
    from loginpipe.local.stack import attach_or_start

    with attach_or_start(LOCAL_FOLDER) as stack:
        _make_ready(stack)
        notes.print(
            f"The UI will be at http://127.0.0.1:{port} ; its sensor ingests what arrives. In another terminal, send "
            "something:\n\n    loginpipe send --count 500\n"
        )
        code = run_dagster_dev(port)
    raise typer.Exit(code)


@local_app.command()
def up(*, as_json: Json = False) -> None:
    """Start the embedded services in the background and write .env, which the dagster commands read.

    Example: loginpipe local up && dagster asset materialize -m loginpipe.definitions --select 'group:login_ingest'
    """
    from loginpipe.local.stack import up

    with _step("start Postgres and an SQS endpoint"):
        stack = up(LOCAL_FOLDER)
    variables = _make_ready(stack)
    if as_json:
        _print_json(variables)
        return
    out.print(
        f"Postgres       {stack.database_url}\nAWS endpoint   {stack.endpoint_url}\nQueue          "
        f"{variables['LOGINPIPE_QUEUE']}\nSettings       .env\n\n"
        "Next:\n"
        "    loginpipe send --count 500\n"
        "    dagster asset materialize -m loginpipe.definitions --select 'group:login_ingest'\n"
        "    dagster dev",
        soft_wrap=True,
    )


@local_app.command()
def down() -> None:
    """Stop the embedded services; their data stays in .loginpipe.

    Example: loginpipe local down
    """
    from loginpipe.local.stack import down

    out.print("stopped" if down(LOCAL_FOLDER) else "nothing was running")


@app.command("migrate")
def migrate_command(*, as_json: Json = False) -> None:
    """Bring the database in LOGINPIPE_DATABASE_URL up to date. A user_logins that is there already is adopted as it is.

    Example: loginpipe migrate
    """
    from loginpipe.postgres.connections import require_verified_tls
    from loginpipe.postgres.migrate import migrate

    settings = load_settings()
    url = required("database_url", settings.database_url, "postgresql://user@host/database")
    if settings.production:
        require_verified_tls(url)
    result = migrate(url)
    if as_json:
        _print_json({"before": result.before, "after": result.after, "adopted": result.adopted})
    elif result.before == result.after:
        out.print(f"up to date at {result.after}")
    else:
        adopted = "; the table user_logins that was there is adopted as it is" if result.adopted else ""
        out.print(f"migrated from {result.before or 'nothing'} to {result.after}{adopted}")


@app.command()
def send(
    *,
    count: Annotated[int | None, typer.Option(help="Generate this many sample events.", min=1)] = None,
    file: Annotated[
        Path | None,
        typer.Option(help="Send these: a JSON array of events, or one message body a line.", dir_okay=False),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the generator; the same seed gives the same events.")] = 1,
    as_json: Json = False,
) -> None:
    """Put login events on the queue.

    Example: loginpipe send --count 500, or: loginpipe send --file events.json
    """
    from loginpipe.local.queues import send_bodies
    from loginpipe.local.sample_events import sample_bodies
    from loginpipe.sqs.client import open_queue

    settings = load_settings()
    if (count is None) == (file is None):
        raise SettingError("what to send is not clear: give one of --count and --file")
    if count is not None and settings.production:
        raise SettingError("generated events do not belong on a production queue: use --file")
    bodies = list(sample_bodies(count, seed=seed)) if count is not None else _bodies_in(file or Path())
    queue = open_queue(settings.queue, connections=8)
    with Progress(console=notes, transient=True) as progress:
        task = progress.add_task("sending", total=len(bodies))
        sent = send_bodies(queue.client, queue.url, bodies, lambda more: progress.advance(task, more))
    if as_json:
        _print_json({"queue": queue.name, "sent": sent})
    else:
        out.print(f"sent {sent:,} messages to queue {queue.name!r}")


@keys_app.command()
def generate(
    *, if_missing: Annotated[bool, typer.Option("--if-missing", help="Leave files that exist as they are.")] = False
) -> None:
    """Create the files that LOGINPIPE_TOKEN_KEYS and LOGINPIPE_SEAL_KEY name. Nothing is ever overwritten.

    The private half of the seal key is made beside the public one: move it to where only custodians can read it.

    Example: LOGINPIPE_TOKEN_KEYS=file:keys/tokens.json LOGINPIPE_SEAL_KEY=file:keys/seal.pem loginpipe keys generate
    """
    from loginpipe.masking.key_files import generate_seal_key, generate_token_keys, read_seal_key
    from loginpipe.masking.keys import SEAL_OFF, key_file

    settings = load_settings()
    token_keys = key_file(
        required("token_keys", settings.token_keys, "a file: URI, as in file:keys/token_keys.json"),
        "LOGINPIPE_TOKEN_KEYS",
    )
    seal_key = required("seal_key", settings.seal_key, "a file: URI, as in file:keys/seal_public.pem, or off")
    if not (if_missing and token_keys.exists()):
        generate_token_keys(token_keys, development=not settings.production)
        out.print(f"token keys                {token_keys}", soft_wrap=True)
    if seal_key == SEAL_OFF:
        return
    public = key_file(seal_key, "LOGINPIPE_SEAL_KEY")
    if not (if_missing and public.exists()):
        private = generate_seal_key(public)
        out.print(f"seal key, public half     {public}\nseal key, private half    {private}", soft_wrap=True)
    out.print(f"fingerprint to pin        {read_seal_key(public).fingerprint}", soft_wrap=True)


def _make_ready(stack: Any) -> dict[str, str]:
    from loginpipe.local.environment import dagster_home, write_env_file
    from loginpipe.local.prepare import prepare

    with _step("make what is missing of keys, schema and queue"):
        variables = {**prepare(stack), "DAGSTER_HOME": str(dagster_home(Path()))}
        kept = write_env_file(Path(".env"), variables)
    if kept:
        notes.print(f"[yellow]note:[/] .env sets {', '.join(kept)} itself, and that is left as it is")
    os.environ.update({name: value for name, value in variables.items() if name not in kept})
    return variables


def _bodies_in(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise SettingError(f"{file} cannot be read as UTF-8 text: mend the path or the file") from None
    if text.lstrip().startswith("["):
        try:
            return [json.dumps(event, ensure_ascii=False) for event in json.loads(text)]
        except ValueError:
            raise SettingError(
                f"{file} begins like a JSON array but is none: mend it, or put one body a line"
            ) from None
    return [line for line in text.splitlines() if line.strip()]


@contextmanager
def _step(what: str) -> Iterator[None]:
    with notes.status(what):
        yield
    notes.print(f"[green]✓[/] {what}")


def _print_json(value: object) -> None:
    print(json.dumps(value))  # noqa: T201 - nothing may wrap or colour it
