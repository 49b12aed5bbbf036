"""The commands for personal data: requested, approved, recovered and erased, all of it on the record.

Each custodian connects with a login of their own, in LOGINPIPE_DATABASE_URL: that is who the record names.
"""

from contextlib import closing
from enum import StrEnum
from typing import Annotated
from uuid import UUID

import typer

from loginpipe.cli import pii_audit, pii_jobs, pii_recover
from loginpipe.cli.custody import Purpose, Ticket, load_known_token_keys
from loginpipe.cli.output import Json, new_app, notes, out, print_json
from loginpipe.cli.warehouse import connect_to_warehouse
from loginpipe.common.settings import load_settings

app = new_app("Personal data in clear: for custodians, with a purpose and a ticket, on the record.")

Tokens = Annotated[list[str], typer.Argument(help="Tokens as in user_logins, or ids of rejected messages.")]


class Switch(StrEnum):
    """On or off."""

    ON = "on"
    OFF = "off"


def request(tokens: Tokens, *, purpose: Purpose, ticket: Ticket, as_json: Json = False) -> None:
    """Put on record which values are to be seen and why; prints the id of the request, which is good for 15 minutes.

    Example: loginpipe pii request ip.v1.… --purpose "account takeover, user informed" --ticket SEC-1234
    """
    from loginpipe.custody.access import Reason
    from loginpipe.custody.recovery import request_recovery

    with closing(connect_to_warehouse()) as connection:
        made = request_recovery(connection, tokens, Reason(purpose, ticket))
    if as_json:
        print_json({"request": made.request_id, "needs_approval": made.needs_approval})
        return
    out.print(str(made.request_id))
    if made.needs_approval:
        notes.print(f"a second person must approve it, within 24 hours: loginpipe pii approve {made.request_id}")
    most = f" --most {len(tokens)}" if len(tokens) > pii_recover.VALUES_MOST else ""
    notes.print(f"then, within 15 minutes: loginpipe pii recover {made.request_id} --output FILE{most}")


def approve(request_id: UUID, *, as_json: Json = False) -> None:
    """Approve the request of another custodian, who then has 15 minutes to recover, or 24 hours for a bulk request.

    Example: loginpipe pii approve 7f0c3f6e-3c1b-4a35-9d3e-5b9f2f3f9b11
    """
    from loginpipe.custody.access import approve as approve_access

    with closing(connect_to_warehouse()) as connection:
        approve_access(connection, request_id)
    if as_json:
        print_json({"approved": request_id})
    else:
        out.print(f"request {request_id} is approved")


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

    settings = load_settings()
    with closing(connect_to_warehouse()) as connection:
        tombstones = load_known_token_keys(settings, connection).tombstones(user_id)
        if not yes:
            typer.confirm("This cannot be undone. Erase the user?", abort=True, err=True)
        erasure = erase_user(connection, user_id, tombstones, Reason(purpose, ticket))
    if as_json:
        print_json({"logins": erasure.logins, "sealed_values": erasure.sealed_values, "key_versions": list(tombstones)})
        return
    out.print(f"erased: {erasure.logins:,} logins, {erasure.sealed_values:,} sealed values")
    if not erasure.logins:
        notes.print("There was no login with that user id. What was sent before now is kept out all the same.")
    notes.print(LIMITS)


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
    with closing(connect_to_warehouse()) as connection:
        set_second_person(connection, required=required, ticket=ticket)
    if as_json:
        print_json({"second_person": required})
    else:
        out.print(f"each request {'needs' if required else 'no longer needs'} the approval of a second person")


app.command()(request)
app.command()(approve)
app.command()(pii_recover.recover)
app.command()(erase)
app.command()(pii_jobs.rotate)
app.command()(pii_jobs.drill)
app.command("second-person")(second_person)
app.add_typer(pii_audit.app, name="audit")
