"""The commands for fields that are not part of the contract."""

from typing import Annotated

import typer

from loginpipe.cli.custody import ApprovedRequest, PrivateKeys, Purpose, Ticket, bulk_request, load_private_keys
from loginpipe.cli.output import Json, new_app, notes, out, print_json, progress
from loginpipe.cli.warehouse import connect_to_warehouse
from loginpipe.common.settings import load_settings

app = new_app("Fields of logins that are not part of the contract.")


@app.command()
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
