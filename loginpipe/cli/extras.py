"""The commands for fields that the contract does not know."""

from typing import Annotated

import typer

from loginpipe.cli.custody import ApprovedRequest, PrivateKeys, Purpose, Ticket, bulk_request, load_private_keys
from loginpipe.cli.output import Json, new_app, notes, out, print_json, progress
from loginpipe.cli.warehouse import connect_to_warehouse
from loginpipe.common.settings import load_settings

app = new_app("Fields of logins that the contract does not know.")


@app.command()
def backfill(
    *,
    field: Annotated[str, typer.Option(help="The name of the field, as the app sent it.")],
    purpose: Purpose,
    ticket: Ticket,
    private_key: PrivateKeys = None,
    request: ApprovedRequest = None,
    as_json: Json = False,
) -> None:
    """Copy a field of past logins from what was sealed to loginpipe.login_extras, in clear. For custodians.

    It opens every message that has something sealed and not this field in clear; the access log names them. It can be
    interrupted and started again: what is in clear stays as it is. New logins have the field in clear once
    LOGINPIPE_EXTRA_FIELDS names it, so set that first.

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
            f"warning: {field} looks like personal data, and is in clear for analysts from now on", markup=False
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
                most=pending,
                command="loginpipe extras backfill",
            )
            task = bar.add_task("opening", total=pending)
            done = fill(connection, opener, field, bulk, lambda more: bar.advance(task, more))
    if as_json:
        refused = [{"message": error.subject, "problem": error.problem} for error in done.refused]
        counts = {"opened": done.opened, "filled": done.filled, "not_storable": done.not_storable}
        print_json({"field": field, **counts, "refused": refused})
    else:
        out.print(f"{done.filled:,} of {done.opened:,} messages have {field} in clear now", markup=False)
    if done.not_storable:
        notes.print(f"note: {done.not_storable:,} have values that jsonb cannot hold, which stay sealed")
    for error in done.refused:
        notes.print(f"error: {error}", markup=False)
    if done.refused:
        raise typer.Exit(1)
