"""The commands for the queue and its dead-letter queue."""

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loginpipe.cli.output import Json, Since, Until, new_app, print_result, progress
from loginpipe.cli.warehouse import connect_to_warehouse
from loginpipe.common.errors import QueueError, SettingError, runbook
from loginpipe.common.settings import Settings, load_settings
from loginpipe.logins.parsing import is_unicode

if TYPE_CHECKING:
    from loginpipe.sqs.client import Queue
    from loginpipe.sqs.dead_letters import RedrivePolicy

app = new_app("The dead-letter queue: messages that were received too often.")


def send(
    *,
    count: Annotated[int | None, typer.Option(help="Generate this many sample events.", min=1)] = None,
    file: Annotated[
        Path | None,
        typer.Option(help="Send this file: a JSON array of events, or one message body per line.", dir_okay=False),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the generator. The same seed gives the same events.")] = 1,
    as_json: Json = False,
) -> None:
    """Send login events to the queue.

    Example: loginpipe send --count 500, or: loginpipe send --file events.json
    """
    from loginpipe.local.sample_events import sample_bodies
    from loginpipe.sqs.client import open_queue
    from loginpipe.sqs.sending import send_bodies

    settings = load_settings()
    if (count is None) == (file is None):
        raise SettingError("specify one of --count and --file")
    if count is not None and settings.production:
        raise SettingError("--count sends generated events, which a production queue must not receive: use --file")
    bodies = list(sample_bodies(count, seed=seed)) if count is not None else bodies_in(file or Path())
    queue = open_queue(settings.queue, settings, connections=8)
    with progress() as bar:
        sent = send_bodies(queue, bodies, partial(bar.advance, bar.add_task("sending", total=len(bodies))))
    text = f"sent {sent:,} messages to queue {queue.name!r}"
    print_result({"queue": queue.name, "sent": sent}, text, as_json=as_json)


@app.command()
def status(*, as_json: Json = False) -> None:
    """Show the dead-letter queue and the number of messages in it.

    If other queues share it, the command receives up to a thousand messages to count which queue each is from, and
    returns them at once.

    Example: loginpipe dlq status
    """
    from loginpipe.sqs.client import read_depth
    from loginpipe.sqs.dead_letters import count_owners, other_sources, shared_by

    queue, policy = _queue_and_policy(load_settings())
    depth = read_depth(policy.dead_letters)
    others = other_sources(queue, policy.dead_letters)
    owners = count_owners(queue, policy.dead_letters) if others != 0 else None
    text = f"queue {policy.dead_letters.name!r}: {depth}"
    if owners is not None:
        text += (
            f", {shared_by(others)}: of {'all' if owners.all else 'the first'} {owners.ours + owners.others:,} that "
            f"can be received, {owners.ours:,} are from queue {queue.name!r} and {owners.others:,} from other queues"
        )
    text += f"; messages move there after {policy.max_receives} receives"
    found = {"queue": policy.dead_letters.name, "max_receives": policy.max_receives, **asdict(depth)}
    looked_at = None if owners is None else asdict(owners)
    print_result({**found, "other_queues": others, "looked_at": looked_at}, text, as_json=as_json)


@app.command()
def redrive(
    *,
    since: Since = None,
    until: Until = None,
    per_second: Annotated[
        float | None, typer.Option(help="Move at most this many messages per second.", min=0.1)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count the messages; move nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Delete the queue's dead letters whose outcome is recorded, and move the others back to the queue.

    Dead letters of other queues are not changed; they are hidden until the command ends. You can interrupt the command
    and run it again: a message that is moved twice still counts once. Do not use SQS's own redrive: it gives messages
    new ids, which the ledger does not know. A message that the queue refuses stays a dead letter and makes the exit
    code 1; docs/operations.md says what to do.

    Example: loginpipe dlq redrive --per-second 200 --dry-run
    """
    from loginpipe.postgres.ledger import recorded
    from loginpipe.sqs.client import read_depth
    from loginpipe.sqs.dead_letters import redrive as redrive_dead_letters
    from loginpipe.sqs.sending import by_code

    settings = load_settings()
    queue, policy = _queue_and_policy(settings)
    first = since.timestamp() * 1000 if since else float("-inf")
    last = until.timestamp() * 1000 if until else float("inf")
    with connect_to_warehouse(settings) as connection, progress() as bar:
        advance = partial(bar.advance, bar.add_task("dead letters", total=read_depth(policy.dead_letters).visible))
        counts = redrive_dead_letters(
            queue,
            policy.dead_letters,
            recorded=lambda messages: recorded(connection, [m.message_id for m in messages]),
            wanted=lambda message: first <= message.sent_ms < last,
            per_second=per_second,
            dry_run=dry_run,
            progress=advance,
        )
    would = "would be " if dry_run else ""
    text = (
        f"{counts.moved:,} {would}moved to queue {queue.name!r}, {counts.dropped:,} {would}deleted because "
        f"their outcome is recorded, {counts.left:,} left"
    )
    if counts.others:
        text += f", and {counts.others:,} dead letters of other queues"
    print_result({**asdict(counts), "refused": dict(counts.refused), "dry_run": dry_run}, text, as_json=as_json)
    if counts.refused:
        see = runbook("what-is-refused")
        raise QueueError(
            f"queue {queue.name!r} refused dead letters ({by_code(counts.refused)}), which stay where they are: see "
            f"{see}"
        )


def _queue_and_policy(settings: Settings) -> "tuple[Queue, RedrivePolicy]":
    from loginpipe.sqs.client import open_queue
    from loginpipe.sqs.dead_letters import redrive_policy

    queue = open_queue(settings.queue, settings, connections=8)
    policy = redrive_policy(queue)
    if policy is None:
        raise QueueError(f"queue {queue.name!r} has no dead-letter queue: give it a redrive policy; see docs/aws.md")
    return queue, policy


def bodies_in(file: Path) -> list[str]:
    """Return the message bodies in a file: a JSON array of events, or one body a line."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise SettingError(f"{file} cannot be read as UTF-8 text: fix the path or the file") from None
    # Other characters that end a line in Python may stand in a message.
    if not text.lstrip().startswith("["):
        return [line for line in text.split("\n") if line.strip()]
    try:
        bodies = [json.dumps(event, ensure_ascii=False) for event in json.loads(text)]
    except (ValueError, RecursionError):
        raise SettingError(f"{file} begins with [ but is not a JSON array: fix it, or put one body per line") from None
    # A lone surrogate, written as an escape, is text to JSON and none to UTF-8.
    if not all(map(is_unicode, bodies)):
        raise SettingError(f"{file} contains lone surrogates, which SQS does not accept: remove them")
    return bodies
