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

from loginpipe.cli import audit, bulk, custody
from loginpipe.cli.output import Json, new_app, notes, out, print_json, print_result, printable
from loginpipe.cli.warehouse import connect_to_warehouse
from loginpipe.common.errors import LoginpipeError
from loginpipe.common.settings import load_settings

if TYPE_CHECKING:
    from loginpipe.custody.access import Reason
    from loginpipe.custody.erasure import Erasure
    from loginpipe.custody.opening import Opener
    from loginpipe.custody.recovery import Recovery
    from loginpipe.custody.token_checks import TokenChecks
    from loginpipe.postgres.connections import Connection


app = new_app("Recover and erase personal data. For custodians; every use is recorded in the access log.")
app.add_typer(audit.app, name="audit")

Tokens = Annotated[list[str], typer.Argument(help="Tokens from user_logins, or ids of rejected messages.")]
_DEFAULT_LIMIT = 10
_COLUMNS = ("token", "field", "value", "checked_by")


class _Switch(StrEnum):
    ON = "on"
    OFF = "off"


@app.command()
def request(tokens: Tokens, *, purpose: custody.Purpose, ticket: custody.Ticket, as_json: Json = False) -> None:
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
    limit = f" --limit {len(tokens)}" if len(tokens) > _DEFAULT_LIMIT else ""
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
    purpose: custody.OptionalPurpose = None,
    ticket: custody.OptionalTicket = None,
    private_key: custody.PrivateKeys = None,
    limit: Annotated[int, typer.Option(help="Recover at most this many values.", min=1)] = _DEFAULT_LIMIT,
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
    from loginpipe.custody.access import request_access
    from loginpipe.custody.recovery import private_output
    from loginpipe.custody.recovery import recover as recover_values

    if (output is None) != show:
        raise LoginpipeError("specify one of --output and --show")
    access, tokens = _reason(purpose, ticket) or _request_id(what), list(dict.fromkeys(what))
    if len(tokens) > limit:
        raise LoginpipeError(f"{len(tokens)} values are more than {limit}: give --limit {len(tokens)}")
    settings = load_settings()
    opener = custody.load_private_keys(settings, private_key)
    # All that can fail comes before the release, which is granted once.
    with connect_to_warehouse(settings) as connection, private_output(output) if output else nullcontext() as file:
        checks = custody.load_token_checks(settings, connection)
        if isinstance(access, UUID):
            request_id = access
        else:
            request_id = custody.granted(request_access(connection, tokens, access), "run `loginpipe pii recover {}`")
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
    purpose: custody.OptionalPurpose = None,
    ticket: custody.OptionalTicket = None,
    request: Annotated[
        UUID | None, typer.Option("--request", help="An approved request for an erasure, instead of a user id.")
    ] = None,
    private_key: custody.PrivateKeys = None,
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
        keys = custody.load_known_token_keys(settings, connection)
        if not yes:
            typer.confirm("This cannot be undone. Erase the user?", abort=True, err=True)
        if user_id is not None and reason is not None:
            made = request_erasure(connection, user_id, keys.tombstones(user_id), reason)
            request = custody.granted(made, "run `loginpipe pii erase --request {}`")
        assert request is not None  # noqa: S101  one of both was given
        erasure = erase_user(connection, request, keys, lambda: custody.load_private_keys(settings, private_key))
    if as_json:
        print_json({"request": request, "key_versions": sorted(keys.field_keys), **asdict(erasure)})
        return
    _report_erasure(erasure)


@app.command()
def discard(
    tokens: Tokens,
    *,
    purpose: custody.Purpose,
    ticket: custody.Ticket,
    private_key: custody.PrivateKeys = None,
    as_json: Json = False,
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
    opener = custody.load_private_keys(settings, private_key)
    with connect_to_warehouse(settings) as connection:
        checks = custody.load_token_checks(settings, connection)
        made = request_access(connection, list(dict.fromkeys(tokens)), Reason(purpose, ticket))
        request_id = custody.granted(made, "request again")
        released = release(connection, request_id)
        opening = open_released([r for r in released.found if r.value.subject in tokens], DataKeys(opener), checks)
        bad = [error for error in opening.refused if error.problem in DISCARDED and error.subject]
        discarded = discard_values(connection, request_id, [str(error.subject) for error in bad]) if bad else 0
    if as_json:
        print_json({"request": request_id, "discarded": discarded, "problems": custody.problems(bad)})
    else:
        out.print(f"{discarded} of {len(tokens)} values did not match their tokens and were deleted")


app.command()(bulk.rotate)


@app.command()
def drill(
    *,
    ticket: Annotated[str, typer.Option(help="Id of a ticket. Recorded in the access log.")] = "drill",
    private_key: custody.PrivateKeys = None,
    request: Annotated[
        UUID | None, typer.Option("--request", help="The request of an earlier drill, after it was approved.")
    ] = None,
    sample: Annotated[
        int | None, typer.Option(help="Open this many stored values at random instead.", min=1, max=256)
    ] = None,
    as_json: Json = False,
) -> None:
    """Test that recovery works: seal made-up values, request them, open them and compare.

    The two sealed values and the entries in the access log stay. With --sample the command opens stored values instead,
    compares them with their tokens and shows none of them. Exits with 1 if recovery does not work or a value does not
    match its token. The role must be pii_custodian and loginpipe_writer.

    Example: loginpipe pii drill --private-key /media/custody/seal_private.pem
    Or: loginpipe pii drill --sample 50 --ticket SEC-1300
    """
    from loginpipe.custody.access import Reason, request_access
    from loginpipe.custody.drill import recover_canary, store_canary
    from loginpipe.masking.keys import load_compat

    settings = load_settings()
    opener, recipients = custody.load_private_keys(settings, private_key), custody.load_recipients(settings)
    with connect_to_warehouse(settings) as connection:
        checks = custody.load_token_checks(settings, connection)
        if sample is not None:
            _open_sample(connection, opener, checks, number=sample, ticket=ticket, request=request, as_json=as_json)
            return
        canary = None
        if request is None:
            compat = load_compat(settings.masking, settings.compat_salt, production=settings.production)
            canary = store_canary(connection, custody.load_known_token_keys(settings, connection), compat, recipients)
            made = request_access(connection, canary.tokens, Reason("drill: recovery of made-up values", ticket))
            request = custody.granted(made, "run `loginpipe pii drill --request {}`")
        proved = recover_canary(connection, request, opener, checks, canary)
    if as_json:
        print_json({"values": proved.values, "opened_with": proved.opened_with, "not_tried": proved.not_tried})
        return
    out.print(
        f"recovery works: {proved.values} values were sealed, released and opened, with {_few(proved.opened_with)}"
    )
    if proved.not_tried:
        notes.print(f"not tested, because the private key is missing: {_few(proved.not_tried)}")


def _open_sample(
    connection: "Connection",
    opener: "Opener",
    checks: "TokenChecks",
    *,
    number: int,
    ticket: str,
    request: UUID | None,
    as_json: bool,
) -> None:
    from loginpipe.custody.access import Reason, request_access
    from loginpipe.custody.drill import open_sample, random_tokens

    if request is None:
        tokens = random_tokens(connection, number)
        if not tokens:
            raise LoginpipeError("no value is sealed yet: run the drill without --sample")
        why = Reason("drill: stored values opened and compared with their tokens", ticket)
        then = f"run `loginpipe pii drill --sample {number} --request {{}}`"
        request = custody.granted(request_access(connection, tokens, why), then)
    found = open_sample(connection, request, opener, checks)
    if as_json:
        print_json({"values": found.values, "unchecked": found.unchecked, "refused": custody.problems(found.refused)})
    else:
        out.print(f"{found.values:,} stored values were opened and match their tokens")
    if found.unchecked:
        notes.print(f"note: {found.unchecked:,} values open, but no available key can check them against their tokens")
    custody.report_refused(found.refused, "; delete it with `loginpipe pii discard`, so that the value is sealed again")


def _few(fingerprints: list[str]) -> str:
    return " and ".join(f"{fingerprint[:16]}…" for fingerprint in fingerprints)


@app.command("second-person")
def second_person(
    switch: Annotated[
        _Switch, typer.Argument(help="on: another custodian must approve each request. off: no approval is needed.")
    ],
    *,
    ticket: custody.Ticket,
    as_json: Json = False,
) -> None:
    """Require that a second custodian approves each request, or stop requiring it. For the owner of the vault.

    Example: loginpipe pii second-person on --ticket SEC-1200
    """
    from loginpipe.custody.access import set_second_person

    required = switch is _Switch.ON
    with connect_to_warehouse(load_settings()) as connection:
        set_second_person(connection, required=required, ticket=ticket)
    needs = "needs" if required else "no longer needs"
    print_result(
        {"second_person": required}, f"each request {needs} the approval of a second custodian", as_json=as_json
    )


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


def _rows(recovery: "Recovery") -> list[tuple[str, ...]]:
    return [(value.subject, value.field_name, value.text, value.checked_by) for value in recovery.recovered]


def _report(recovery: "Recovery", request_id: UUID, output: Path | None, *, as_json: bool) -> None:
    """Print what was recovered, and what not and why. Exit with 1 if nothing was recovered or a value was refused."""
    rows = _rows(recovery)
    if as_json:
        shown = {} if output else {"values": [dict(zip(_COLUMNS, row, strict=True)) for row in rows]}
        counts = {"request": request_id, "recovered": len(rows), "missing": recovery.missing}
        refused = custody.problems(recovery.refused)
        print_json({**counts, "refused": refused, "output": output if rows else None, **shown})
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
    custody.report_refused(recovery.refused)
    if not rows:
        raise typer.Exit(1)
