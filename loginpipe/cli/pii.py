"""The commands for personal data: requested, approved, recovered and erased, all of it on the record.

Each custodian connects with a login of their own, in LOGINPIPE_DATABASE_URL: that is who the record names.
"""

import csv
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from loginpipe.cli import custody
from loginpipe.cli.custody import (
    PURPOSE_HELP,
    TICKET_HELP,
    PrivateKeys,
    Purpose,
    Ticket,
    load_known_token_keys,
    load_private_keys,
    load_token_checks,
    printable,
    require_no_approval,
)
from loginpipe.cli.output import Json, new_app, notes, out, print_json, print_result
from loginpipe.cli.warehouse import connect_to_warehouse
from loginpipe.common.errors import LoginpipeError
from loginpipe.common.settings import load_settings

if TYPE_CHECKING:
    from loginpipe.custody.access import Reason
    from loginpipe.custody.recovery import Recovery
    from loginpipe.postgres.connections import Connection

app = new_app("Personal data in clear: for custodians, with a purpose and a ticket, on the record.")

Tokens = Annotated[list[str], typer.Argument(help="Tokens as in user_logins, or ids of rejected messages.")]
VALUES_MOST = 10
"""Values that are recovered in one go unless more are asked for."""

_COLUMNS = ("token", "field", "value")


class Switch(StrEnum):
    """On or off."""

    ON = "on"
    OFF = "off"


@app.command()
def request(tokens: Tokens, *, purpose: Purpose, ticket: Ticket, as_json: Json = False) -> None:
    """Put on record which values are to be seen and why; prints the id of the request, which is good for 15 minutes.

    Example: loginpipe pii request ip.v1.… --purpose "account takeover, user informed" --ticket SEC-1234
    """
    from loginpipe.custody.access import Reason
    from loginpipe.custody.recovery import request_recovery

    with connect_to_warehouse(load_settings()) as connection:
        made = request_recovery(connection, tokens, Reason(purpose, ticket))
    if as_json:
        print_json({"request": made.request_id, "needs_approval": made.needs_approval})
        return
    out.print(str(made.request_id))
    if made.needs_approval:
        notes.print(f"a second person must approve it, within 24 hours: loginpipe pii approve {made.request_id}")
    most = f" --most {len(tokens)}" if len(tokens) > VALUES_MOST else ""
    notes.print(f"then, within 15 minutes: loginpipe pii recover {made.request_id} --output FILE{most}")


@app.command()
def approve(request_id: UUID, *, as_json: Json = False) -> None:
    """Approve the request of another custodian, who then has 15 minutes to recover, or 24 hours for a bulk request.

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
        typer.Argument(
            help="The id of a request; or, with --purpose and --ticket, tokens and ids of rejected messages."
        ),
    ],
    *,
    purpose: Annotated[str | None, typer.Option(help=PURPOSE_HELP)] = None,
    ticket: Annotated[str | None, typer.Option(help=TICKET_HELP)] = None,
    private_key: PrivateKeys = None,
    most: Annotated[int, typer.Option(help="Recover at most this many values.", min=1)] = VALUES_MOST,
    output: Annotated[
        Path | None, typer.Option(help="A new file, for you alone: CSV of token, field and value.", dir_okay=False)
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Show the values on the terminal instead.")] = False,
    as_json: Json = False,
) -> None:
    """Recover what tokens, or the ids of rejected messages, stand for.

    Either the id of a request, or, with --purpose and --ticket, tokens: requested, released and opened in one go. Each
    value is checked against its token. What cannot be believed is named and not given out.

    Example: loginpipe pii recover ip.v1.… --purpose "account takeover" --ticket SEC-1234 --output found.csv
    """
    from loginpipe.custody.recovery import private_output
    from loginpipe.custody.recovery import recover as recover_values

    if (output is None) != show:
        raise LoginpipeError("where the values are to go is not clear: give one of --output FILE and --show")
    reason = _reason(purpose, ticket)
    given = None if reason else _request_id(what)
    asked = list(dict.fromkeys(what)) if reason else None
    if asked and len(asked) > most:
        raise LoginpipeError(f"{len(asked)} values are more than {most}: give --most {len(asked)}")
    settings = load_settings()
    opener = load_private_keys(settings, private_key)
    # All that can fail comes before the release, which is granted once.
    with connect_to_warehouse(settings) as connection, private_output(output) if output else nullcontext() as file:
        checks = load_token_checks(settings, connection)
        request_id = given or _requested(connection, what, reason)
        recovery = recover_values(connection, request_id, opener, checks, asked=asked, most=most)
        if not recovery.recovered:
            # The file goes again with the error.
            _report(recovery, request_id, output, as_json=as_json)
        if file:
            csv.writer(file).writerows([_COLUMNS, *_rows(recovery)])
    _report(recovery, request_id, output, as_json=as_json)


@app.command()
def erase(
    user_id: Annotated[str, typer.Argument(help="As in user_logins.")],
    *,
    purpose: Purpose,
    ticket: Ticket,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether it is meant.")] = False,
    as_json: Json = False,
) -> None:
    """Erase a user: their logins, what only these can be recovered from, and whatever they sent before and comes later.

    It cannot be undone, and there is no trial run: looking what would go would be an access without a record.

    Example: loginpipe pii erase 424cdd21-063a-43a7-b91b-7ca1a833afae --purpose "request by the user" --ticket DPO-77
    """
    from loginpipe.custody.access import Reason
    from loginpipe.custody.erasure import LIMITS
    from loginpipe.custody.erasure import erase as erase_user
    from loginpipe.postgres.archive import count_dropped

    settings = load_settings()
    with connect_to_warehouse(settings) as connection:
        tombstones = load_known_token_keys(settings, connection).tombstones(user_id)
        if not yes:
            typer.confirm("This cannot be undone. Erase the user?", abort=True, err=True)
        erasure = erase_user(connection, user_id, tombstones, Reason(purpose, ticket))
        dropped = count_dropped(connection)
    if as_json:
        print_json(
            {
                "logins": erasure.logins,
                "sealed_values": erasure.sealed_values,
                "key_versions": list(tombstones),
                "archived_days_to_search": dropped,
            }
        )
        return
    out.print(f"erased: {erasure.logins:,} logins, {erasure.sealed_values:,} sealed values")
    if not erasure.logins:
        notes.print("There was no login with that user id. What was sent before now is kept out all the same.")
    if dropped:
        notes.print(
            f"{dropped:,} days are in the archive only. The next run of archive_logins searches their files for the "
            "user, and writes those that have them again without."
        )
    notes.print(LIMITS)


app.command()(custody.rotate)
app.command()(custody.drill)


@app.command("second-person")
def second_person(
    switch: Annotated[Switch, typer.Argument(help="Whether each request must be approved by another custodian.")],
    *,
    ticket: Ticket,
    as_json: Json = False,
) -> None:
    """Demand, or no longer demand, that a second custodian approves each request. For the owner of the vault.

    Example: loginpipe pii second-person on --ticket SEC-1200
    """
    from loginpipe.custody.access import set_second_person

    required = switch is Switch.ON
    with connect_to_warehouse(load_settings()) as connection:
        set_second_person(connection, required=required, ticket=ticket)
    needs = "needs" if required else "no longer needs"
    print_result({"second_person": required}, f"each request {needs} the approval of a second person", as_json=as_json)


app.add_typer(custody.audit, name="audit")


def _reason(purpose: str | None, ticket: str | None) -> "Reason | None":
    from loginpipe.custody.access import Reason

    if (purpose is None) != (ticket is None):
        raise LoginpipeError("a purpose and a ticket go together: give both, or the id of a request")
    return None if purpose is None or ticket is None else Reason(purpose, ticket)


def _request_id(what: list[str]) -> UUID:
    try:
        (only,) = what
        return UUID(only)
    except ValueError:
        raise LoginpipeError(
            "tokens are recovered with --purpose and --ticket, or by the id of one request: give either"
        ) from None


def _requested(connection: "Connection", tokens: list[str], reason: "Reason | None") -> UUID:
    from loginpipe.custody.recovery import request_recovery

    assert reason is not None  # noqa: S101  else there is a request already
    made = request_recovery(connection, tokens, reason)
    require_no_approval(made, f"run `loginpipe pii recover {made.request_id}`")
    return made.request_id


def _rows(recovery: "Recovery") -> list[tuple[str, str, str]]:
    return [(value.subject, value.field_name, value.text) for value in recovery.recovered]


def _report(recovery: "Recovery", request_id: UUID, output: Path | None, *, as_json: bool) -> None:
    """Say what was recovered, and what not and why.

    Raises:
        typer.Exit: with 1, where nothing was recovered, or something was there and was not given out.
        LoginpipeError: nothing of what was asked is there.
    """
    rows = _rows(recovery)
    if as_json:
        shown = {} if output else {"values": [dict(zip(_COLUMNS, row, strict=True)) for row in rows]}
        refused = [{"token": error.subject, "fault": error.fault} for error in recovery.refused]
        counts = {"request": request_id, "recovered": len(rows), "missing": recovery.missing, "refused": refused}
        print_json({**counts, "output": output if rows else None, **shown})
    elif not rows and not recovery.refused:
        raise LoginpipeError(
            "nothing is sealed for what was asked: was it copied whole, and was sealing on at the time?"
        )
    elif output and rows:
        says = f"{len(rows)} values are in {output}, which you alone can read: delete it when you are done"
        out.print(says, markup=False)
    else:
        for row in rows:
            typer.echo("  ".join(map(printable, row)))
    for value in recovery.recovered:
        if value.by_alias:
            notes.print(f"note: {value.subject} was checked by an alias of its token alone", markup=False)
    for subject in recovery.missing:
        notes.print(f"note: nothing is sealed for {subject}", markup=False)
    for error in recovery.refused:
        notes.print(f"error: {error}", markup=False)
    if recovery.refused or not rows:
        raise typer.Exit(1)
