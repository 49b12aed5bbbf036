"""The command that recovers personal data: to a file for the custodian alone, or shown because that was asked for."""

import csv
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from loginpipe.cli.custody import (
    PURPOSE_HELP,
    TICKET_HELP,
    PrivateKeys,
    load_private_keys,
    load_token_checks,
    printable,
    require_no_approval,
)
from loginpipe.cli.output import Json, notes, out, print_json
from loginpipe.cli.warehouse import connect_to_warehouse
from loginpipe.common.errors import LoginpipeError
from loginpipe.common.settings import load_settings

if TYPE_CHECKING:
    from loginpipe.custody.access import Reason
    from loginpipe.custody.recovery import Recovery
    from loginpipe.postgres.connections import Connection

VALUES_MOST = 10
"""Values that are recovered in one go unless more are asked for."""

_COLUMNS = ("token", "field", "value")


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
    with closing(connect_to_warehouse()) as connection, private_output(output) if output else nullcontext() as file:
        checks = load_token_checks(settings, connection)
        request_id = given or _requested(connection, what, reason)
        recovery = recover_values(connection, request_id, opener, checks, asked=asked, most=most)
        if not recovery.recovered:
            # The file goes again with the error.
            _report(recovery, request_id, output, as_json=as_json)
        if file:
            csv.writer(file).writerows([_COLUMNS, *_rows(recovery)])
    _report(recovery, request_id, output, as_json=as_json)


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
