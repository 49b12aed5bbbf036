"""What the commands of custodians share: their options, keys and requests, and reports of refused values."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from loginpipe.cli.output import notes
from loginpipe.common.errors import LoginpipeError, OpeningError, SettingError
from loginpipe.common.settings import Settings

if TYPE_CHECKING:
    from loginpipe.custody.access import Bulk, BulkKind, Reason, Request
    from loginpipe.custody.opening import Opener
    from loginpipe.custody.token_checks import TokenChecks
    from loginpipe.masking.sealing import SealKey
    from loginpipe.masking.tokens import TokenKeys
    from loginpipe.postgres.connections import Connection

_PURPOSE = typer.Option(help="Why you need this, in at least 10 characters. Recorded in the access log.")
_TICKET = typer.Option(help="Id of the ticket that asks for this. Recorded in the access log.")

Purpose = Annotated[str, _PURPOSE]
Ticket = Annotated[str, _TICKET]
OptionalPurpose = Annotated[str | None, _PURPOSE]
OptionalTicket = Annotated[str | None, _TICKET]
PrivateKeys = Annotated[
    list[str] | None,
    typer.Option(
        "--private-key",
        metavar="URI",
        help="Private key: a file, or an awskms: URI. Can be repeated. Default: the one beside LOGINPIPE_SEAL_KEY.",
    ),
]
ApprovedRequest = Annotated[
    UUID | None, typer.Option("--request", help="Your bulk request, after another custodian approved it.")
]

_BULK_COMMANDS: "dict[BulkKind, str]" = {
    "rotate": "loginpipe pii rotate",
    "backfill": "loginpipe extras backfill",
    "replay": "loginpipe rejects replay",
}


def load_private_keys(settings: Settings, uris: list[str] | None) -> "Opener":
    """Load the named private keys, or those beside LOGINPIPE_SEAL_KEY; ask for passphrases. Raises as `load_opener`."""
    from loginpipe.custody.private_keys import load_opener, private_uris

    if not uris and not settings.seal_key:
        raise SettingError("LOGINPIPE_SEAL_KEY is not set: set it, or specify --private-key")
    named = uris or private_uris(settings.required("seal_key"))
    return load_opener(named, production=settings.production, passphrase=_ask_passphrase)


def _ask_passphrase(path: Path) -> str:
    passphrase: str = typer.prompt(f"Passphrase of {path}", hide_input=True, err=True, default="", show_default=False)
    return passphrase


def load_known_token_keys(settings: Settings, connection: "Connection") -> "TokenKeys":
    """Load the token keys, and refuse other keys than this database's."""
    from loginpipe.masking.keys import load_token_keys
    from loginpipe.postgres.token_keys import require_known_keys

    keys = load_token_keys(settings.required("token_keys"), production=settings.production)
    require_known_keys(connection, keys)
    return keys


def load_token_checks(settings: Settings, connection: "Connection") -> "TokenChecks":
    """Load what tokens are made again with: the token keys, and the older schemes as far as nothing is missing."""
    from loginpipe.custody.token_checks import TokenChecks
    from loginpipe.masking.compat import BASE64, MD5, PLAIN, SALTED
    from loginpipe.masking.keys import load_compat

    names = [MD5, BASE64, PLAIN, *([SALTED] if settings.compat_salt else [])]
    schemes = [load_compat(name, settings.compat_salt, production=settings.production) for name in names]
    return TokenChecks(load_known_token_keys(settings, connection), [scheme for scheme in schemes if scheme])


def load_recipients(settings: Settings) -> tuple["SealKey", ...]:
    """Load the public keys that the pipeline seals for. Raise LoginpipeError if sealing is off."""
    from loginpipe.masking.keys import load_seal_keys

    seal_key = settings.required("seal_key")
    recipients = load_seal_keys(seal_key, fingerprint=settings.seal_key_fingerprint, production=settings.production)
    if not recipients:
        raise LoginpipeError("LOGINPIPE_SEAL_KEY is off, so nothing can be sealed: set it to the seal key")
    return recipients


def granted(request: "Request", then: str) -> UUID:
    """Return the id of a new request. If another custodian must approve it first, raise an error.

    ``then`` is what to do after the approval, with {} for the id.
    """
    if request.needs_approval:
        raise LoginpipeError(
            f"request {request.request_id} needs approval: ask another custodian to run "
            f"`loginpipe pii approve {request.request_id}`, then {then.format(request.request_id)}"
        )
    return request.request_id


def bulk_request(
    connection: "Connection", kind: "BulkKind", number: int, reason: "Reason", approved: UUID | None
) -> "Bulk":
    """Return the approved bulk request if there is one, or make one for a number of values. Raises as `granted`."""
    from loginpipe.custody.access import Bulk, request_bulk

    if approved is None:
        then = f"run `{_BULK_COMMANDS[kind]}` again with --request {{}}"
        approved = granted(request_bulk(connection, kind, number, reason), then)
    return Bulk(approved, reason)


def problems(refused: Iterable[OpeningError], subject: str = "token") -> list[dict[str, str | None]]:
    """Return refused values for JSON. `subject` names what identifies them."""
    return [{subject: error.subject, "problem": error.problem} for error in refused]


def report_refused(refused: Sequence[OpeningError], advice: str = "") -> None:
    """Print the error of each refused value. If there are any, exit with 1."""
    for error in refused:
        notes.print(f"error: {error}{advice}", markup=False)
    if refused:
        raise typer.Exit(1)
