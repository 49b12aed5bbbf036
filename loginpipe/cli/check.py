"""The command that checks messages from the queue or a file, without storing or deleting any."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from loginpipe.cli.output import Json, new_table, notes, out, print_json
from loginpipe.cli.queue import bodies_in
from loginpipe.common.errors import QueueError, SettingError, runbook
from loginpipe.common.settings import Settings, load_settings
from loginpipe.logins.messages import Message

if TYPE_CHECKING:
    from collections.abc import Iterable

    from loginpipe.ingest.process import Masking
    from loginpipe.ingest.trial import Trial

# Names and versions shown to people.
_MOST_SHOWN = 20


def check(
    *,
    # A message may be a mebibyte, and all are in memory.
    count: Annotated[int | None, typer.Option(help="Check this many messages from the queue.", min=1, max=1000)] = None,
    file: Annotated[
        Path | None,
        typer.Option(help="Check this file: a JSON array of events, or one message body per line.", dir_okay=False),
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Only print the JSON Schema of an event.")] = False,
    as_json: Json = False,
) -> None:
    """Validate and mask messages in memory, as a run would, and show the result. Writes nothing and deletes nothing.

    Exits with 1 if a message would be rejected. Messages from the queue return to it at once, also after an error or
    Ctrl-C. Each counts as received once more, so the command refuses a queue with a maxReceiveCount of 1. A file needs
    neither queue nor database. Without LOGINPIPE_TOKEN_KEYS nothing is masked.

    Example: loginpipe check --count 100, or: LOGINPIPE_ENVELOPE=sns loginpipe check --file events.jsonl
    """
    if [count is not None, file is not None, schema].count(True) != 1:
        raise SettingError("specify one of --count, --file and --schema")
    if schema:
        from loginpipe.logins.event_schema import event_schema_text

        print(event_schema_text(), end="")  # noqa: T201 - nothing may wrap or colour it
        return
    settings = load_settings()
    masking = _masking(settings)
    trial, exhausted, where = _of_file(file, settings, masking) if file else _of_queue(count or 0, settings, masking)
    if as_json:
        print_json({**asdict(trial), "last_receive": exhausted})
    else:
        _show(trial, where, masked=masking is not None)
    if exhausted:
        notes.print(
            f"[yellow]warning:[/] {exhausted:,} of these messages have reached the queue's maxReceiveCount: the next "
            f"receive moves them to the dead-letter queue; see {runbook('dead-letters')}"
        )
    if trial.rejected:
        raise typer.Exit(1)


def _masking(settings: Settings) -> "Masking | None":
    """Return the keys that the settings name, without those for sealing; None where they name none."""
    from loginpipe.ingest.process import Masking
    from loginpipe.masking.keys import load_compat, load_token_keys

    if not settings.token_keys:
        return None
    production = settings.production
    return Masking(
        load_token_keys(settings.token_keys, production=production),
        compat=load_compat(settings.masking, settings.compat_salt, production=production),
    )


def _of_queue(count: int, settings: Settings, masking: "Masking | None") -> "tuple[Trial, int, str]":
    """Return the result for messages of the queue, and how many of them must not be received once more."""
    from loginpipe.ingest.trial import try_out
    from loginpipe.sqs.client import open_queue
    from loginpipe.sqs.dead_letters import redrive_policy
    from loginpipe.sqs.deliveries import peeked

    queue = open_queue(settings.queue, settings, connections=8)
    policy = redrive_policy(queue)
    if policy is not None and policy.max_receives <= 1:
        raise QueueError(
            f"queue {queue.name!r} has a maxReceiveCount of 1, so a message that is checked would become a dead "
            "letter: raise maxReceiveCount to 3 or more, or use --file"
        )
    visibility_seconds, resent_days = settings.visibility_seconds, settings.resent_days
    with peeked(queue, count, visibility_seconds=visibility_seconds, resent_days=resent_days) as messages:
        trial = try_out(messages, masking, envelope=settings.envelope)
    exhausted = sum(m.receive_count >= policy.max_receives for m in messages) if policy is not None else 0
    return trial, exhausted, f"from queue {queue.name!r}"


def _of_file(file: Path, settings: Settings, masking: "Masking | None") -> "tuple[Trial, int, str]":
    """Return the result for the events in a file. Their ids are their places in it, from 1 on."""
    from loginpipe.ingest.trial import try_out

    now_ms = time.time_ns() // 1_000_000
    messages = [
        Message(str(place), str(place), "", body, now_ms, now_ms, 1, body_intact=True)
        for place, body in enumerate(bodies_in(file), 1)
    ]
    return try_out(messages, masking, envelope=settings.envelope), 0, f"in {file}"


def _show(trial: "Trial", where: str, *, masked: bool) -> None:
    out.print(
        f"{trial.received:,} messages {where}: {trial.accepted:,} would be accepted, {trial.rejected:,} rejected; "
        "nothing was written or deleted",
        markup=False,
    )
    if masked:
        out.print(f"masked {trial.addresses:,} addresses and {trial.devices:,} devices")
    else:
        out.print("masked nothing, because LOGINPIPE_TOKEN_KEYS is not set")
    reasons = [(r.reason, r.field, f"{r.messages:,}", r.meaning) for r in trial.reasons]
    _table(("reason", "field", "messages", "meaning"), reasons, wraps="meaning")
    rejected = [(r.message, ", ".join(r.violations)) for r in trial.rejected_messages]
    _table(("rejected message", "violations"), rejected, wraps="violations")
    if trial.rejected > len(rejected):
        out.print(f"  and {trial.rejected - len(rejected):,} more")
    for title, counts in (("unknown field", trial.unknown_fields), ("app version", trial.app_versions)):
        shown = list(counts.items())[:_MOST_SHOWN]
        _table((title, "messages"), ((name, f"{number:,}") for name, number in shown), wraps=title)
        if len(counts) > len(shown):
            out.print(f"  and {len(counts) - len(shown):,} more: use --json to see all")


def _table(columns: tuple[str, ...], rows: "Iterable[tuple[str, ...]]", *, wraps: str) -> None:
    table = new_table(columns, wraps=wraps, numbers={"messages"})
    for row in rows:
        table.add_row(*map(escape, row))
    if table.row_count:
        out.print()
        out.print(table)
