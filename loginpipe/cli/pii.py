"""The commands for personal data: requested, approved, recovered and erased, all of it on the record.

Each custodian connects with a login of their own, in LOGINPIPE_DATABASE_URL: that is who the record names.
"""

import csv
from contextlib import nullcontext
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from loginpipe.cli import custody
from loginpipe.cli.custody import (
    PURPOSE_HELP,
    TICKET_HELP,
    ApprovedRequest,
    PrivateKeys,
    Purpose,
    Ticket,
    bulk_request,
    load_known_token_keys,
    load_private_keys,
    load_token_checks,
    printable,
    require_no_approval,
)
from loginpipe.cli.output import Json, new_app, notes, out, print_json, print_result, progress
from loginpipe.cli.warehouse import connect_to_warehouse
from loginpipe.common.errors import LoginpipeError
from loginpipe.common.settings import load_settings

if TYPE_CHECKING:
    from loginpipe.custody.access import Reason
    from loginpipe.custody.erasure import Erasure
    from loginpipe.custody.recovery import Recovery
    from loginpipe.postgres.connections import Connection


app = new_app("Recover and erase personal data. For custodians; every use is recorded in the access log.")
extras = new_app("Fields of logins that are not part of the contract.")

Tokens = Annotated[list[str], typer.Argument(help="Tokens from user_logins, or ids of rejected messages.")]
MAX_VALUES = 10
"""The default of --limit."""

_COLUMNS = ("token", "field", "value", "checked_by")


class Switch(StrEnum):
    """On or off."""

    ON = "on"
    OFF = "off"


@app.command()
def request(tokens: Tokens, *, purpose: Purpose, ticket: Ticket, as_json: Json = False) -> None:
    """Request access to values, with a reason. Prints the id of the request, which is valid for 15 minutes.

    Example: loginpipe pii request ip.v1.… --purpose "account takeover, user informed" --ticket SEC-1234
    """
    from loginpipe.custody.access import Reason, request_access

    with connect_to_warehouse(load_settings()) as connection:
        made = request_access(connection, list(dict.fromkeys(tokens)), Reason(purpose, ticket))
    if as_json:
        print_json({"request": made.request_id, "needs_approval": made.needs_approval})
        return
    out.print(str(made.request_id))
    if made.needs_approval:
        notes.print(f"Another custodian must approve it within 24 hours: loginpipe pii approve {made.request_id}")
    limit = f" --limit {len(tokens)}" if len(tokens) > MAX_VALUES else ""
    notes.print(f"Then run, within 15 minutes: loginpipe pii recover {made.request_id} --output FILE{limit}")


@app.command()
def approve(request_id: UUID, *, as_json: Json = False) -> None:
    """Approve a request of another custodian, who can then use it for 15 minutes, or 24 hours for a bulk request.

    Example: loginpipe pii approve 7f0c3f6e-3c1b-4a35-9d3e-5b9f2f3f9b11
    """
    from loginpipe.custody.access import approve as approve_access

    with connect_to_warehouse(load_settings()) as connection:
        approve_access(connection, request_id)
    print_result({"approved": request_id}, f"request {request_id} is approved", as_json=as_json)


@app.command()
def recover(
    what: Annotated[
        list[str],
        typer.Argument(help="The id of a request. With --purpose and --ticket: tokens, or ids of rejected messages."),
    ],
    *,
    purpose: Annotated[str | None, typer.Option(help=PURPOSE_HELP)] = None,
    ticket: Annotated[str | None, typer.Option(help=TICKET_HELP)] = None,
    private_key: PrivateKeys = None,
    limit: Annotated[int, typer.Option(help="Recover at most this many values.", min=1)] = MAX_VALUES,
    output: Annotated[
        Path | None,
        typer.Option(help="Write the values to this new CSV file, which only you can read.", dir_okay=False),
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Show the values on the terminal.")] = False,
    as_json: Json = False,
) -> None:
    """Recover the original values of tokens, or the bodies of rejected messages.

    Give the id of a request. Or give tokens with --purpose and --ticket, and the command makes the request itself. Each
    value is checked against its token. A value that does not match its token is reported and not shown.

    Example: loginpipe pii recover ip.v1.… --purpose "account takeover" --ticket SEC-1234 --output found.csv
    """
    from loginpipe.custody.recovery import private_output
    from loginpipe.custody.recovery import recover as recover_values

    if (output is None) != show:
        raise LoginpipeError("specify one of --output and --show")
    reason = _reason(purpose, ticket)
    given = None if reason else _request_id(what)
    asked = list(dict.fromkeys(what)) if reason else None
    if asked and len(asked) > limit:
        raise LoginpipeError(f"{len(asked)} values are more than {limit}: give --limit {len(asked)}")
    settings = load_settings()
    opener = load_private_keys(settings, private_key)
    # All that can fail comes before the release, which is granted once.
    with connect_to_warehouse(settings) as connection, private_output(output) if output else nullcontext() as file:
        checks = load_token_checks(settings, connection)
        request_id = given or _requested(connection, what, reason)
        recovery = recover_values(connection, request_id, opener, checks, limit=limit)
        if not recovery.recovered:
            # The file goes again with the error.
            _report(recovery, request_id, output, as_json=as_json)
        if file:
            csv.writer(file).writerows([_COLUMNS, *_rows(recovery)])
    _report(recovery, request_id, output, as_json=as_json)


@app.command()
def erase(
    user_id: Annotated[str | None, typer.Argument(help="The user id, as in user_logins.")] = None,
    *,
    purpose: Annotated[str | None, typer.Option(help=PURPOSE_HELP)] = None,
    ticket: Annotated[str | None, typer.Option(help=TICKET_HELP)] = None,
    request: Annotated[
        UUID | None, typer.Option("--request", help="An approved request for an erasure, instead of a user id.")
    ] = None,
    private_key: PrivateKeys = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    as_json: Json = False,
) -> None:
    """Erase a user: logins, sealed values that only they have, and messages sent before now that arrive later.

    This cannot be undone. The access log records it first. If a rotation of the token key gave the user's tokens
    aliases, the private key is needed, because each alias is verified by the value itself.

    Example: loginpipe pii erase 424cdd21-063a-43a7-b91b-7ca1a833afae --purpose "request by the user" --ticket DPO-77
    """
    from loginpipe.custody.erasure import erase as erase_user
    from loginpipe.custody.erasure import request_erasure

    reason = _reason(purpose, ticket)
    if (user_id is None) == (request is None) or (reason is None) == (request is None):
        raise LoginpipeError("specify a user id with --purpose and --ticket, or --request")
    settings = load_settings()
    with connect_to_warehouse(settings) as connection:
        keys = load_known_token_keys(settings, connection)
        if not yes:
            typer.confirm("This cannot be undone. Erase the user?", abort=True, err=True)
        if user_id is not None and reason is not None:
            made = request_erasure(connection, user_id, keys.tombstones(user_id), reason)
            require_no_approval(made, f"run `loginpipe pii erase --request {made.request_id}`")
            request = made.request_id
        assert request is not None  # noqa: S101  one of both was given
        erasure = erase_user(connection, request, keys, lambda: load_private_keys(settings, private_key))
    if as_json:
        print_json({"request": request, "key_versions": sorted(keys.field_keys), **asdict(erasure)})
        return
    _report_erasure(erasure)


@app.command()
def discard(
    tokens: Tokens, *, purpose: Purpose, ticket: Ticket, private_key: PrivateKeys = None, as_json: Json = False
) -> None:
    """Delete sealed values that do not match their tokens, so that the next login with the value seals it again.

    The command opens the values first, which the access log records. It deletes only values that were planted or
    altered, or that have no data key. Values that match their tokens stay.

    Example: loginpipe pii discard ip.v1.… --purpose "planted, found by the drill" --ticket SEC-1301
    """
    from loginpipe.custody.access import Reason, release, request_access
    from loginpipe.custody.access import discard as discard_values
    from loginpipe.custody.opening import DISCARDED, DataKeys, open_released

    settings = load_settings()
    opener = load_private_keys(settings, private_key)
    with connect_to_warehouse(settings) as connection:
        checks = load_token_checks(settings, connection)
        made = request_access(connection, list(dict.fromkeys(tokens)), Reason(purpose, ticket))
        require_no_approval(made, "request again")
        released = release(connection, made.request_id)
        opening = open_released([r for r in released.found if r.value.subject in tokens], DataKeys(opener), checks)
        bad = [error for error in opening.refused if error.problem in DISCARDED and error.subject]
        discarded = discard_values(connection, made.request_id, [str(error.subject) for error in bad]) if bad else 0
    if as_json:
        problems = [{"token": error.subject, "problem": error.problem} for error in bad]
        print_json({"request": made.request_id, "discarded": discarded, "problems": problems})
    else:
        out.print(f"{discarded} of {len(tokens)} values did not match their tokens and were deleted")


app.command()(custody.rotate)
app.command()(custody.drill)


@app.command("second-person")
def second_person(
    switch: Annotated[
        Switch, typer.Argument(help="on: another custodian must approve each request. off: no approval is needed.")
    ],
    *,
    ticket: Ticket,
    as_json: Json = False,
) -> None:
    """Require that a second custodian approves each request, or stop requiring it. For the owner of the vault.

    Example: loginpipe pii second-person on --ticket SEC-1200
    """
    from loginpipe.custody.access import set_second_person

    required = switch is Switch.ON
    with connect_to_warehouse(load_settings()) as connection:
        set_second_person(connection, required=required, ticket=ticket)
    needs = "needs" if required else "no longer needs"
    print_result(
        {"second_person": required}, f"each request {needs} the approval of a second custodian", as_json=as_json
    )


app.add_typer(custody.audit, name="audit")


def _report_erasure(erasure: "Erasure") -> None:
    from loginpipe.custody.erasure import LIMITS

    out.print(f"erased: {erasure.logins:,} logins, {erasure.sealed_values:,} sealed values")
    if not erasure.logins:
        notes.print("No login had that user id. Messages that the user sent before now will not be loaded.")
    for token in erasure.kept:
        notes.print(f"note: {token} is also in logins of other users: its value stays", markup=False)
    for token in erasure.planted:
        notes.print(f"warning: {token} was planted as an alias of one of the user's tokens: it stays", markup=False)
    for token in erasure.unverified:
        notes.print(
            f"warning: {token} could not be verified as an alias of one of the user's tokens: its value stays",
            markup=False,
        )
    if erasure.dropped:
        first, last = erasure.dropped
        notes.print(
            f"Some days from {first} to {last} are only in the archive. The next run of archive_logins searches their "
            "files, and writes those that have the user again without them."
        )
    notes.print(LIMITS)


def _reason(purpose: str | None, ticket: str | None) -> "Reason | None":
    from loginpipe.custody.access import Reason

    if (purpose is None) != (ticket is None):
        raise LoginpipeError("specify both --purpose and --ticket, or the id of a request")
    return None if purpose is None or ticket is None else Reason(purpose, ticket)


def _request_id(what: list[str]) -> UUID:
    try:
        (only,) = what
        return UUID(only)
    except ValueError:
        raise LoginpipeError("specify tokens with --purpose and --ticket, or the id of one request") from None


def _requested(connection: "Connection", tokens: list[str], reason: "Reason | None") -> UUID:
    from loginpipe.custody.access import request_access

    assert reason is not None  # noqa: S101  else there is a request already
    made = request_access(connection, list(dict.fromkeys(tokens)), reason)
    require_no_approval(made, f"run `loginpipe pii recover {made.request_id}`")
    return made.request_id


def _rows(recovery: "Recovery") -> list[tuple[str, ...]]:
    return [(value.subject, value.field_name, value.text, value.checked_by) for value in recovery.recovered]


def _report(recovery: "Recovery", request_id: UUID, output: Path | None, *, as_json: bool) -> None:
    """Say what was recovered, and what not and why.

    Raises:
        typer.Exit: with 1, where nothing was recovered, or something was there and was not given out.
        LoginpipeError: nothing of what was asked is there.
    """
    rows = _rows(recovery)
    if as_json:
        shown = {} if output else {"values": [dict(zip(_COLUMNS, row, strict=True)) for row in rows]}
        refused = [{"token": error.subject, "problem": error.problem} for error in recovery.refused]
        counts = {"request": request_id, "recovered": len(rows), "missing": recovery.missing, "refused": refused}
        print_json({**counts, "output": output if rows else None, **shown})
    elif not rows and not recovery.refused:
        raise LoginpipeError(
            "no sealed value exists for these: check that you copied them whole, and that sealing was on then"
        )
    elif output and rows:
        out.print(f"{len(rows)} values are in {output}, which only you can read: delete it after use", markup=False)
    else:
        for row in rows:
            typer.echo("  ".join(map(printable, row)))
    for value in recovery.recovered:
        if value.by_alias:
            notes.print(f"note: {value.subject} was checked only by an alias of its token", markup=False)
    for subject in recovery.missing:
        notes.print(f"note: no sealed value exists for {subject}", markup=False)
    for error in recovery.refused:
        notes.print(f"error: {error}", markup=False)
    if recovery.refused or not rows:
        raise typer.Exit(1)


@extras.command()
def backfill(
    *,
    field: Annotated[str, typer.Option(help="Name of the field, as the app sends it.")],
    purpose: Purpose,
    ticket: Ticket,
    private_key: PrivateKeys = None,
    request: ApprovedRequest = None,
    as_json: Json = False,
) -> None:
    """Copy a field of past logins from their sealed fields to loginpipe.login_extras, in clear. For custodians.

    Set LOGINPIPE_EXTRA_FIELDS first, so that new logins have the field in clear too. The command opens every message
    with sealed fields that does not have this field in clear yet; the access log names each of them. You can interrupt
    the command and start it again.

    Example: loginpipe extras backfill --field country --purpose "report by country" --ticket BI-12
    """
    from loginpipe.custody.access import Reason
    from loginpipe.custody.extras import Backfill, count_to_fill, require_extra
    from loginpipe.custody.extras import backfill as fill
    from loginpipe.logins.extras import looks_personal

    settings = load_settings()
    require_extra(field)
    opener = load_private_keys(settings, private_key)
    if looks_personal(field):
        notes.print(
            f"warning: {field} looks like personal data, and analysts can read it in clear from now on", markup=False
        )
    with connect_to_warehouse(settings) as connection, progress() as bar:
        pending = count_to_fill(connection, field)
        done = Backfill()
        if pending:
            bulk = bulk_request(
                connection,
                Reason(purpose, ticket),
                request,
                kind="backfill",
                number=pending,
                command="loginpipe extras backfill",
            )
            task = bar.add_task("opening", total=pending)
            done = fill(connection, opener, field, bulk, lambda more: bar.advance(task, more))
    if as_json:
        refused = [{"message": error.subject, "problem": error.problem} for error in done.refused]
        counts = {"opened": done.opened, "filled": done.filled, "not_storable": done.not_storable}
        print_json({"field": field, **counts, "refused": refused})
    else:
        out.print(f"opened {done.opened:,} messages; {field} of {done.filled:,} is in clear now", markup=False)
    if done.not_storable:
        notes.print(f"note: {done.not_storable:,} messages have values that jsonb cannot hold; they stay sealed")
    for error in done.refused:
        notes.print(f"error: {error}", markup=False)
    if done.refused:
        raise typer.Exit(1)
