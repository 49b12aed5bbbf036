"""The custodians' jobs: completing a rotation of the token key, and the drill that recovery still works."""

from contextlib import closing
from typing import Annotated
from uuid import UUID

import typer

from loginpipe.cli.custody import (
    ApprovedRequest,
    PrivateKeys,
    Purpose,
    Ticket,
    bulk_request,
    load_known_token_keys,
    load_private_keys,
    load_recipients,
    load_token_checks,
    require_no_approval,
)
from loginpipe.cli.output import Json, notes, out, print_json, progress
from loginpipe.cli.warehouse import connect_to_warehouse
from loginpipe.common.settings import load_settings

_DRILL_PURPOSE = "drill: recovery of values that are nobody's"


def rotate(
    *,
    purpose: Purpose,
    ticket: Ticket,
    private_key: PrivateKeys = None,
    request: ApprovedRequest = None,
    lost_version: Annotated[
        list[int] | None,
        typer.Option(help="A version whose key is gone for good: its values cannot be checked; may be repeated."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Complete a rotation of the token key: values under older versions get a token of the current one, and an alias.

    The pipeline does so for values that it sees again; this opens the others, on the record. It can be interrupted and
    begun again. The role must be pii_custodian and, for as long as this takes, loginpipe_writer too.

    Example: loginpipe pii rotate --purpose "completing the rotation to version 2" --ticket SEC-1300
    """
    from loginpipe.custody.access import Reason
    from loginpipe.custody.rotation import Rotation, count_to_rotate
    from loginpipe.custody.rotation import rotate as rotate_values

    settings = load_settings()
    opener, recipients = load_private_keys(settings, private_key), load_recipients(settings)
    with closing(connect_to_warehouse()) as connection, progress() as bar:
        keys = load_known_token_keys(settings, connection)
        pending = count_to_rotate(connection, keys.current)
        done = Rotation()
        if pending:
            bulk = bulk_request(connection, Reason(purpose, ticket), request, "loginpipe pii rotate")
            task = bar.add_task("rotating", total=pending)
            done = rotate_values(
                connection,
                bulk,
                opener,
                keys,
                recipients,
                lost=lost_version or (),
                progress=lambda more: bar.advance(task, more),
            )
    if as_json:
        refused = [{"token": error.subject, "fault": error.fault} for error in done.refused]
        counts = {"rotated": done.rotated, "sealed": done.sealed, "unchecked": done.unchecked}
        print_json({"version": keys.current, **counts, "refused": refused})
    else:
        out.print(f"{done.rotated:,} values have a token of version {keys.current} now, {done.sealed:,} sealed anew")
    if done.unchecked:
        notes.print(f"note: {done.unchecked:,} of them are of a lost version and could not be checked")
    for error in done.refused:
        notes.print(f"error: {error}", markup=False)
    if done.refused:
        raise typer.Exit(1)


def drill(
    *,
    ticket: Annotated[str, typer.Option(help="For the record.")] = "drill",
    private_key: PrivateKeys = None,
    request: Annotated[UUID | None, typer.Option("--request", help="That of an earlier drill, now approved.")] = None,
    as_json: Json = False,
) -> None:
    """Prove that recovery still works: seal values that are nobody's, request them, open them and compare.

    Leaves two sealed values and its entries in the access log. Exits with 1 if recovery does not work. The role must be
    pii_custodian and loginpipe_writer.

    Example: loginpipe pii drill --private-key /media/custody/seal_private.pem
    """
    from loginpipe.custody.access import Reason, request_access
    from loginpipe.custody.drill import recover_canary, store_canary
    from loginpipe.masking.keys import load_compat

    settings = load_settings()
    opener, recipients = load_private_keys(settings, private_key), load_recipients(settings)
    with closing(connect_to_warehouse()) as connection:
        checks = load_token_checks(settings, connection)
        canary = None
        if request is None:
            compat = load_compat(settings.masking, settings.compat_salt, production=settings.production)
            canary = store_canary(connection, load_known_token_keys(settings, connection), compat, recipients)
            made = request_access(connection, canary.tokens, Reason(_DRILL_PURPOSE, ticket))
            require_no_approval(made, f"run `loginpipe pii drill --request {made.request_id}`")
            request = made.request_id
        proved = recover_canary(connection, request, opener, checks, canary)
    if as_json:
        print_json({"values": proved.values, "opened_with": proved.opened_with, "not_tried": proved.not_tried})
        return
    out.print(
        f"recovery works: {proved.values} values were sealed, released and opened, with {_few(proved.opened_with)}"
    )
    if proved.not_tried:
        notes.print(f"not tried, since its private key was not at hand: {_few(proved.not_tried)}")


def _few(fingerprints: list[str]) -> str:
    return " and ".join(f"{fingerprint[:16]}…" for fingerprint in fingerprints)
