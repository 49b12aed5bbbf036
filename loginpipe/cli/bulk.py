"""The custodians' commands that open many sealed values under one bulk request: rotate, backfill."""

from functools import partial
from typing import Annotated

import typer

from loginpipe.cli import custody
from loginpipe.cli.output import Json, new_app, notes, out, print_json, progress
from loginpipe.cli.warehouse import connect_to_warehouse
from loginpipe.common.settings import load_settings

extras = new_app("Fields of logins that are not part of the contract.")


@extras.command()
def backfill(
    *,
    field: Annotated[str, typer.Option(help="Name of the field, as the app sends it.")],
    purpose: custody.Purpose,
    ticket: custody.Ticket,
    private_key: custody.PrivateKeys = None,
    request: custody.ApprovedRequest = None,
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
    opener = custody.load_private_keys(settings, private_key)
    if looks_personal(field):
        notes.print(
            f"warning: {field} looks like personal data, and analysts can read it in clear from now on", markup=False
        )
    with connect_to_warehouse(settings) as connection, progress() as bar:
        pending = count_to_fill(connection, field)
        done = Backfill()
        if pending:
            bulk = custody.bulk_request(connection, "backfill", pending, Reason(purpose, ticket), request)
            advance = partial(bar.advance, bar.add_task("opening", total=pending))
            done = fill(connection, opener, field, bulk, advance)
    if as_json:
        print_json({"field": field, **vars(done), "refused": custody.problems(done.refused, "message")})
    else:
        out.print(f"opened {done.opened:,} messages; {field} of {done.filled:,} is in clear now", markup=False)
    if done.not_storable:
        notes.print(f"note: {done.not_storable:,} messages have values that jsonb cannot hold; they stay sealed")
    custody.report_refused(done.refused)


def rotate(
    *,
    purpose: custody.Purpose,
    ticket: custody.Ticket,
    private_key: custody.PrivateKeys = None,
    request: custody.ApprovedRequest = None,
    lost_version: Annotated[
        list[int] | None,
        typer.Option(help="A version whose key is lost: its values cannot be checked. Can be repeated."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Complete a rotation of the token key: give values with tokens of older versions a current token and an alias.

    The pipeline does this for values that arrive again. This command opens all others, which the access log records.
    You can interrupt it and run it again. The role must be pii_custodian and, while the command runs, loginpipe_writer.

    Example: loginpipe pii rotate --purpose "completing the rotation to version 2" --ticket SEC-1300
    """
    from loginpipe.custody.access import Reason
    from loginpipe.custody.rotation import Rotation, count_to_rotate
    from loginpipe.custody.rotation import rotate as rotate_values

    settings = load_settings()
    opener, recipients = custody.load_private_keys(settings, private_key), custody.load_recipients(settings)
    with connect_to_warehouse(settings) as connection, progress() as bar:
        keys = custody.load_known_token_keys(settings, connection)
        pending = count_to_rotate(connection, keys.current)
        done = Rotation()
        if pending:
            bulk = custody.bulk_request(connection, "rotate", pending, Reason(purpose, ticket), request)
            advance = partial(bar.advance, bar.add_task("rotating", total=pending))
            lost = lost_version or ()
            done = rotate_values(connection, bulk, opener, keys, recipients, lost=lost, progress=advance)
    if as_json:
        print_json({"version": keys.current, **vars(done), "refused": custody.problems(done.refused)})
    else:
        out.print(
            f"{done.rotated:,} values now have a token of version {keys.current} and a verified alias; "
            f"{done.sealed:,} were sealed again"
        )
    if done.corrected:
        notes.print(f"warning: {done.corrected:,} planted aliases led to other values and were corrected")
    if done.unchecked:
        notes.print(f"note: {done.unchecked:,} of them have a lost version and could not be checked")
    custody.report_refused(done.refused)
