"""The commands for rejected messages."""

from dataclasses import asdict
from datetime import datetime
from functools import partial
from typing import Annotated
from uuid import UUID

import typer

from loginpipe.cli.custody import ApprovedRequest, PrivateKeys, Purpose, Ticket, bulk_request, load_private_keys
from loginpipe.cli.output import Json, Since, Until, new_app, new_table, notes, out, print_json, progress
from loginpipe.cli.warehouse import connect_to_warehouse
from loginpipe.common.errors import LoginpipeError, QueueError, runbook
from loginpipe.common.settings import load_settings
from loginpipe.logins.rejects import MEANINGS

app = new_app("Rejected messages: list, show and replay them.")

Reason = Annotated[
    str | None, typer.Option(help="Only rejects with this reason code.", autocompletion=lambda: list(MEANINGS))
]


@app.command("list")
def list_(
    *,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    replayed: Annotated[bool, typer.Option("--replayed", help="Include rejects that were replayed.")] = False,
    limit: Annotated[int, typer.Option(help="Show at most this many.", min=1)] = 50,
    as_json: Json = False,
) -> None:
    """List rejected messages, newest first: time, fields and reasons. Never shows their content.

    Example: loginpipe rejects list --reason invalid_address --since 2026-11-01
    """
    from loginpipe.postgres.ledger import RejectFilter, find_rejects

    _require_known(reason)
    wanted = RejectFilter(reason=reason, since=since, until=until, replayed=replayed, limit=limit)
    with connect_to_warehouse(load_settings()) as connection:
        rejects = find_rejects(connection, wanted)
    if as_json:
        print_json([asdict(reject) for reject in rejects])
        return
    columns = ("message", "sent (UTC)", "violations", *(["replayed (UTC)"] if replayed else []))
    table = new_table(columns, wraps="violations")
    for reject in rejects:
        replayed_at = [_time(reject.replayed_at)] if replayed else []
        table.add_row(reject.message_id, _time(reject.sent_at), reject.violations, *replayed_at)
    out.print(table)
    if len(rejects) == limit:
        notes.print(f"only the newest {limit} are shown: use --limit to see more")


@app.command()
def show(
    message_id: Annotated[UUID, typer.Argument(help="Message id, as `loginpipe rejects list` shows it.")],
    *,
    as_json: Json = False,
) -> None:
    """Show the reasons and field names of one rejected message. Its body is sealed: `loginpipe pii recover` opens it.

    Example: loginpipe rejects show 7f0c3f6e-3c1b-4a35-9d3e-5b9f2f3f9b11
    """
    from loginpipe.postgres.ledger import RejectFilter, find_rejects

    with connect_to_warehouse(load_settings()) as connection:
        found = find_rejects(connection, RejectFilter(message_id=str(message_id), replayed=True))
    if not found:
        raise LoginpipeError(
            f"no rejected message has the id {message_id}: run `loginpipe rejects list` to see their ids"
        )
    if as_json:
        print_json(asdict(found[0]))
        return
    for name, value in asdict(found[0]).items():
        out.print(f"{name:<12} {', '.join(value) if isinstance(value, list) else value}")
    for reason in dict.fromkeys(found[0].reasons):
        out.print(f"\n{reason} means: {MEANINGS.get(reason, 'unknown to this version')}", markup=False)


@app.command()
def replay(
    *,
    purpose: Purpose,
    ticket: Ticket,
    private_key: PrivateKeys = None,
    request: ApprovedRequest = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count the messages; send nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Send rejected messages that the current rules accept back to the queue. For custodians: it opens the bodies.

    A replayed login keeps the date of its first message, and counts once however often it is sent. The access log names
    every message that was opened, also in a dry run. A message that the queue refuses stays rejected and makes the exit
    code 1; docs/operations.md says what to do.

    Example: loginpipe rejects replay --purpose "rules were fixed" --ticket OPS-31 --reason invalid_version --dry-run
    """
    from loginpipe.custody.access import Reason as AccessReason
    from loginpipe.custody.replay import ReplayCounts
    from loginpipe.custody.replay import replay as replay_rejects
    from loginpipe.postgres.ledger import RejectFilter, find_rejects
    from loginpipe.sqs.client import open_queue
    from loginpipe.sqs.sending import by_code

    _require_known(reason)
    settings = load_settings()
    opener = load_private_keys(settings, private_key)
    queue = open_queue(settings.queue, settings, connections=2)
    with connect_to_warehouse(settings) as connection, progress() as bar:
        rejects = find_rejects(connection, RejectFilter(reason=reason, since=since, until=until))
        counts = ReplayCounts()
        if rejects:
            bulk = bulk_request(connection, "replay", len(rejects), AccessReason(purpose, ticket), request)
            counts = replay_rejects(
                connection,
                queue,
                opener,
                rejects,
                bulk,
                envelope=settings.envelope,
                resent_days=settings.resent_days,
                dry_run=dry_run,
                progress=partial(bar.advance, bar.add_task("replaying", total=len(rejects))),
            )
    if as_json:
        print_json({**asdict(counts), "refused": dict(counts.refused), "dry_run": dry_run})
    else:
        verb = "would be sent" if dry_run else "sent"
        out.print(
            f"{counts.sent:,} {verb} to queue {queue.name!r}; {counts.still_bad:,} are still invalid and stay rejected"
        )
        if counts.without_body:
            out.print(f"{counts.without_body:,} have no body to replay: sealing was off, or their user was erased")
    if counts.refused:
        see = runbook("what-is-refused")
        raise QueueError(
            f"queue {queue.name!r} refused messages ({by_code(counts.refused)}), which stay rejected: see {see}"
        )


def _require_known(reason: str | None) -> None:
    if reason is not None and reason not in MEANINGS:
        raise LoginpipeError(f"there is no reason {reason!r}: use one of {', '.join(MEANINGS)}")


def _time(time: datetime | None) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S}" if time is not None else ""
