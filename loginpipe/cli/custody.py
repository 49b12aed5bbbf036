"""What the custodians' commands have in common: their options, the keys they open with, and how clear text is shown."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from loginpipe.common.errors import LoginpipeError, SettingError
from loginpipe.common.settings import Settings

if TYPE_CHECKING:
    from loginpipe.custody.access import Bulk, Reason, Request
    from loginpipe.custody.opening import Opener
    from loginpipe.custody.token_checks import TokenChecks
    from loginpipe.masking.sealing import SealKey
    from loginpipe.masking.tokens import TokenKeys
    from loginpipe.postgres.connections import Connection

PURPOSE_HELP = "Why: at least 10 characters, for the record."
TICKET_HELP = "The ticket that asks for it, for the record."

Purpose = Annotated[str, typer.Option(help=PURPOSE_HELP)]
Ticket = Annotated[str, typer.Option(help=TICKET_HELP)]
PrivateKeys = Annotated[
    list[str] | None,
    typer.Option(
        "--private-key",
        metavar="URI",
        help="What opens: a file or file: URI, or awskms:; may be repeated. Default: beside LOGINPIPE_SEAL_KEY.",
    ),
]
ApprovedRequest = Annotated[
    UUID | None, typer.Option("--request", help="A bulk request of yours that a second person has approved.")
]


def load_private_keys(settings: Settings, uris: list[str] | None) -> "Opener":
    """Load the private keys that are named, or those that the settings lead to; ask for passphrases.

    Raises:
        KeyFileError: as `loginpipe.custody.private_keys.load_opener`.
    """
    from loginpipe.custody.private_keys import load_opener, private_uris

    if not uris and not settings.seal_key:
        raise SettingError("LOGINPIPE_SEAL_KEY is not set: set it, or name the private key with --private-key")
    named = uris or private_uris(settings.required("seal_key"))
    return load_opener(named, production=settings.production, passphrase=_ask_passphrase)


def load_known_token_keys(settings: Settings, connection: "Connection") -> "TokenKeys":
    """Load the token keys, and make sure that they are this database's.

    Raises:
        KeyFileError, TokenKeyMismatchError: they are not to be used.
    """
    from loginpipe.masking.keys import load_token_keys
    from loginpipe.postgres.token_key_checks import require_known_keys

    keys = load_token_keys(settings.required("token_keys"), production=settings.production)
    require_known_keys(connection, keys)
    return keys


def load_token_checks(settings: Settings, connection: "Connection") -> "TokenChecks":
    """Load what tokens are made again with: the token keys, and the older schemes as far as nothing is missing."""
    from loginpipe.custody.token_checks import TokenChecks
    from loginpipe.masking.compat import BASE64, MD5, SALTED
    from loginpipe.masking.keys import load_compat

    names = [MD5, BASE64, *([SALTED] if settings.compat_salt else [])]
    schemes = [load_compat(name, settings.compat_salt, production=settings.production) for name in names]
    return TokenChecks(load_known_token_keys(settings, connection), [scheme for scheme in schemes if scheme])


def load_recipients(settings: Settings) -> tuple["SealKey", ...]:
    """Load the public keys that the pipeline seals for.

    Raises:
        KeyFileError: as `loginpipe.masking.keys.load_seal_keys`.
        LoginpipeError: sealing is off.
    """
    from loginpipe.masking.keys import load_seal_keys

    seal_key = settings.required("seal_key")
    recipients = load_seal_keys(seal_key, fingerprint=settings.seal_key_fingerprint, production=settings.production)
    if not recipients:
        raise LoginpipeError("LOGINPIPE_SEAL_KEY is off, so nothing can be sealed: name the seal key for this")
    return recipients


def bulk_request(connection: "Connection", reason: "Reason", approved: UUID | None, command: str) -> "Bulk":
    """Make a bulk request, unless one that was approved is given.

    Raises:
        AccessRefusedError: with the refusal code.
        LoginpipeError: it wants a second person first.
    """
    from loginpipe.custody.access import Bulk, request_access

    if approved is None:
        request = request_access(connection, None, reason)
        require_no_approval(request, f"run `{command}` again with --request {request.request_id}")
        approved = request.request_id
    return Bulk(approved, reason)


def require_no_approval(request: "Request", then: str) -> None:
    """Stop where a second person has to approve a request first; say what comes after.

    Raises:
        LoginpipeError: it is so.
    """
    if request.needs_approval:
        raise LoginpipeError(
            f"request {request.request_id} is on record and wants a second person: let another custodian run "
            f"`loginpipe pii approve {request.request_id}`, then {then}"
        )


def printable(text: str) -> str:
    """Return a text without anything that a terminal would act upon: it may come from whoever sent a message."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
    encoding = sys.stdout.encoding or "ascii"
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def _ask_passphrase(path: Path) -> str:
    passphrase: str = typer.prompt(f"Passphrase of {path}", hide_input=True, err=True, default="", show_default=False)
    return passphrase
