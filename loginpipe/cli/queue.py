"""The commands for the queue."""

import json
from pathlib import Path
from typing import Annotated

import typer

from loginpipe.cli.output import Json, out, print_json, progress
from loginpipe.common.errors import SettingError
from loginpipe.common.settings import load_settings
from loginpipe.logins.parsing import is_unicode


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
    queue = open_queue(settings.queue, settings, connections=8)
    with progress() as bar:
        task = bar.add_task("sending", total=len(bodies))
        sent = send_bodies(queue.client, queue.url, bodies, lambda more: bar.advance(task, more))
    if as_json:
        print_json({"queue": queue.name, "sent": sent})
    else:
        out.print(f"sent {sent:,} messages to queue {queue.name!r}")


def _bodies_in(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise SettingError(f"{file} cannot be read as UTF-8 text: mend the path or the file") from None
    # Other characters that end a line in Python may stand in a message.
    if not text.lstrip().startswith("["):
        return [line for line in text.split("\n") if line.strip()]
    try:
        bodies = [json.dumps(event, ensure_ascii=False) for event in json.loads(text)]
    except (ValueError, RecursionError):
        raise SettingError(f"{file} begins like a JSON array but is none: mend it, or put one body a line") from None
    # A lone surrogate, written as an escape, is text to JSON and none to UTF-8.
    if not all(map(is_unicode, bodies)):
        raise SettingError(f"{file} holds lone surrogates, which no message can: mend it")
    return bodies
