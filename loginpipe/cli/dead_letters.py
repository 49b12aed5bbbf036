"""The commands for the dead-letter queue."""

from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from loginpipe.cli.output import Json, new_app, out, print_json, progress
from loginpipe.cli.warehouse import connect_to_warehouse
from loginpipe.common.errors import QueueError
from loginpipe.common.runbook import runbook
from loginpipe.common.settings import load_settings

app = new_app("The dead-letter queue: messages that were received too often.")


@app.command()
def status(*, as_json: Json = False) -> None:
    """Show the dead-letter queue and how much is in it.

    Example: loginpipe dlq status
    """
    from loginpipe.sqs.client import open_queue
    from loginpipe.sqs.dead_letters import redrive_policy
    from loginpipe.sqs.depth import read_depth

    settings = load_settings()
    queue = open_queue(settings.queue, settings, connections=1)
    policy = redrive_policy(queue)
    if policy is None:
        raise QueueError(f"queue {queue.name!r} has no dead-letter queue: give it a redrive policy, see docs/aws.md")
    depth = read_depth(policy.dead_letters)
    if as_json:
        print_json({"queue": policy.dead_letters.name, "max_receives": policy.max_receives, **asdict(depth)})
    else:
        out.print(f"queue {policy.dead_letters.name!r}: {depth}; messages come after {policy.max_receives} receives")


@app.command()
def redrive(
    *,
    since: Annotated[datetime | None, typer.Option(help="Only messages sent at this time (UTC) or later.")] = None,
    until: Annotated[datetime | None, typer.Option(help="Only messages sent before this time (UTC).")] = None,
    per_second: Annotated[float | None, typer.Option(help="Move at most this many a second.", min=0.1)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, move nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Drop the dead letters whose outcome is recorded, and move the others back to the queue.

    It can be interrupted and begun again: a message that is moved twice is still one message. Do not use SQS's own
    redrive: it gives messages new ids, which the ledger does not know. What is refused stays, is counted by code, and
    makes the exit code 1; docs/operations.md says what to do about it.

    Example: loginpipe dlq redrive --per-second 200 --dry-run
    """
    from loginpipe.postgres.ledger import recorded
    from loginpipe.sqs.client import open_queue
    from loginpipe.sqs.dead_letters import redrive as redrive_dead_letters
    from loginpipe.sqs.dead_letters import redrive_policy
    from loginpipe.sqs.depth import read_depth
    from loginpipe.sqs.sending import by_code

    settings = load_settings()
    queue = open_queue(settings.queue, settings, connections=8)
    policy = redrive_policy(queue)
    if policy is None:
        raise QueueError(f"queue {queue.name!r} has no dead-letter queue: give it a redrive policy, see docs/aws.md")
    first = since.replace(tzinfo=UTC).timestamp() * 1000 if since else float("-inf")
    last = until.replace(tzinfo=UTC).timestamp() * 1000 if until else float("inf")
    with closing(connect_to_warehouse()) as connection, progress() as bar:
        task = bar.add_task("dead letters", total=read_depth(policy.dead_letters).visible)
        counts = redrive_dead_letters(
            queue,
            policy.dead_letters,
            recorded=lambda messages: recorded(connection, [m.message_id for m in messages]),
            wanted=lambda message: first <= message.sent_ms < last,
            per_second=per_second,
            dry_run=dry_run,
            progress=lambda more: bar.advance(task, more),
        )
    would = "would be " if dry_run else ""
    if as_json:
        print_json({**asdict(counts), "refused": dict(counts.refused), "dry_run": dry_run})
    else:
        out.print(
            f"{counts.moved:,} {would}moved to queue {queue.name!r}, {counts.dropped:,} {would}dropped since their "
            f"outcome is recorded, {counts.left:,} left"
        )
    if counts.refused:
        see = runbook("what-is-refused")
        raise QueueError(
            f"queue {policy.dead_letters.name!r} keeps what was refused ({by_code(counts.refused)}): see {see}"
        )
