"""The custodians' commands for rotation, drill and access log, and what all commands of custodians share."""

import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from loginpipe.cli.output import Json, new_app, notes, out, print_json, progress
from loginpipe.cli.warehouse import connect_to_warehouse
from loginpipe.common.errors import AuditError, LoginpipeError, SettingError
from loginpipe.common.settings import Settings, load_settings

if TYPE_CHECKING:
    from loginpipe.custody.access import Bulk, BulkKind, Reason, Request
    from loginpipe.custody.audit import Entry
    from loginpipe.custody.opening import Opener
    from loginpipe.custody.token_checks import TokenChecks
    from loginpipe.masking.sealing import SealKey
    from loginpipe.masking.tokens import TokenKeys
    from loginpipe.postgres.connections import Connection

audit = new_app("The access log: who requested, approved, recovered and erased which values.")

PURPOSE_HELP = "Why you need this, in at least 10 characters. Recorded in the access log."
TICKET_HELP = "Id of the ticket that asks for this. Recorded in the access log."

Purpose = Annotated[str, typer.Option(help=PURPOSE_HELP)]
Ticket = Annotated[str, typer.Option(help=TICKET_HELP)]
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

MAX_SAMPLE = 256
"""The most values in one request."""

_DRILL_PURPOSE = "drill: recovery of made-up values"
_SAMPLE_PURPOSE = "drill: stored values opened and compared with their tokens"
_HEADER = ("entry", "at (UTC)", "actor", "action", "request", "subjects", "ticket", "purpose or detail")
_PROBLEMS_SHOWN = 5


def load_private_keys(settings: Settings, uris: list[str] | None) -> "Opener":
    """Load the private keys that are named, or those that the settings lead to; ask for passphrases.

    Raises:
        KeyFileError: as `loginpipe.custody.opening.load_opener`.
    """
    from loginpipe.custody.opening import load_opener, private_uris

    if not uris and not settings.seal_key:
        raise SettingError("LOGINPIPE_SEAL_KEY is not set: set it, or specify --private-key")
    named = uris or private_uris(settings.required("seal_key"))
    return load_opener(named, production=settings.production, passphrase=_ask_passphrase)


def load_known_token_keys(settings: Settings, connection: "Connection") -> "TokenKeys":
    """Load the token keys, and make sure that they are this database's.

    Raises:
        KeyFileError, TokenKeyMismatchError: they are not to be used.
    """
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
    """Load the public keys that the pipeline seals for.

    Raises:
        KeyFileError: as `loginpipe.masking.keys.load_seal_keys`.
        LoginpipeError: sealing is off.
    """
    from loginpipe.masking.keys import load_seal_keys

    seal_key = settings.required("seal_key")
    recipients = load_seal_keys(seal_key, fingerprint=settings.seal_key_fingerprint, production=settings.production)
    if not recipients:
        raise LoginpipeError("LOGINPIPE_SEAL_KEY is off, so nothing can be sealed: set it to the seal key")
    return recipients


def bulk_request(
    connection: "Connection", reason: "Reason", approved: UUID | None, *, kind: "BulkKind", number: int, command: str
) -> "Bulk":
    """Make a bulk request, unless one that was approved is given.

    Args:
        connection: with no transaction open.
        reason: why.
        approved: the one that is given.
        kind: what for.
        number: for how many values.
        command: to be run again once it is approved.

    Raises:
        AccessRefusedError: with the refusal code.
        LoginpipeError: it wants a second person first.
    """
    from loginpipe.custody.access import Bulk, request_bulk

    if approved is None:
        request = request_bulk(connection, kind, number, reason)
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
            f"request {request.request_id} needs approval: ask another custodian to run "
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


def rotate(
    *,
    purpose: Purpose,
    ticket: Ticket,
    private_key: PrivateKeys = None,
    request: ApprovedRequest = None,
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
    opener, recipients = load_private_keys(settings, private_key), load_recipients(settings)
    with connect_to_warehouse(settings) as connection, progress() as bar:
        keys = load_known_token_keys(settings, connection)
        pending = count_to_rotate(connection, keys.current)
        done = Rotation()
        if pending:
            bulk = bulk_request(
                connection,
                Reason(purpose, ticket),
                request,
                kind="rotate",
                number=pending,
                command="loginpipe pii rotate",
            )
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
        refused = [{"token": error.subject, "problem": error.problem} for error in done.refused]
        counts = {"rotated": done.rotated, "sealed": done.sealed, "corrected": done.corrected}
        print_json({"version": keys.current, **counts, "unchecked": done.unchecked, "refused": refused})
    else:
        out.print(
            f"{done.rotated:,} values now have a token of version {keys.current} and a verified alias; "
            f"{done.sealed:,} were sealed again"
        )
    if done.corrected:
        notes.print(f"warning: {done.corrected:,} planted aliases led to other values and were corrected")
    if done.unchecked:
        notes.print(f"note: {done.unchecked:,} of them have a lost version and could not be checked")
    for error in done.refused:
        notes.print(f"error: {error}", markup=False)
    if done.refused:
        raise typer.Exit(1)


def drill(
    *,
    ticket: Annotated[str, typer.Option(help="Id of a ticket. Recorded in the access log.")] = "drill",
    private_key: PrivateKeys = None,
    request: Annotated[
        UUID | None, typer.Option("--request", help="The request of an earlier drill, after it was approved.")
    ] = None,
    sample: Annotated[
        int | None, typer.Option(help="Open this many stored values at random instead.", min=1, max=MAX_SAMPLE)
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
    opener, recipients = load_private_keys(settings, private_key), load_recipients(settings)
    with connect_to_warehouse(settings) as connection:
        checks = load_token_checks(settings, connection)
        if sample is not None:
            _open_sample(connection, opener, checks, number=sample, ticket=ticket, request=request, as_json=as_json)
            return
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
        made = request_access(connection, tokens, Reason(_SAMPLE_PURPOSE, ticket))
        require_no_approval(made, f"run `loginpipe pii drill --sample {number} --request {made.request_id}`")
        request = made.request_id
    found = open_sample(connection, request, opener, checks)
    if as_json:
        refused = [{"token": error.subject, "problem": error.problem} for error in found.refused]
        print_json({"values": found.values, "unchecked": found.unchecked, "refused": refused})
    else:
        out.print(f"{found.values:,} stored values were opened and match their tokens")
    if found.unchecked:
        notes.print(f"note: {found.unchecked:,} values open, but no available key can check them against their tokens")
    for error in found.refused:
        notes.print(
            f"error: {error}; delete it with `loginpipe pii discard`, so that the value is sealed again", markup=False
        )
    if found.refused:
        raise typer.Exit(1)


def _few(fingerprints: list[str]) -> str:
    return " and ".join(f"{fingerprint[:16]}…" for fingerprint in fingerprints)


@audit.command("list")
def list_(
    *,
    actor: Annotated[str | None, typer.Option(help="Only entries of this role.")] = None,
    token: Annotated[str | None, typer.Option(help="Only entries about this token or message id.")] = None,
    since: Annotated[datetime | None, typer.Option(help="Only entries written at this time (UTC) or later.")] = None,
    limit: Annotated[int, typer.Option(help="Show at most this many.", min=1)] = 50,
    as_json: Json = False,
) -> None:
    """List the entries of the access log, newest first.

    Example: loginpipe pii audit list --actor custodian_1 --since 2026-11-01
    """
    from loginpipe.custody.audit import EntryFilter, find_entries

    wanted = EntryFilter(actor, token, since.replace(tzinfo=UTC) if since else None, limit)
    with connect_to_warehouse(load_settings()) as connection:
        entries = find_entries(connection, wanted)
    if as_json:
        print_json([_json(entry) for entry in entries])
        return
    # No table: one that is cut to the width of a terminal shows neither an id nor a purpose as a whole.
    lines = [_HEADER, *(_cells(entry) for entry in entries)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADER))]
    for line in lines:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    if len(entries) == limit:
        notes.print(f"only the newest {limit} are shown: use --limit to see more")


@audit.command()
def verify(
    *,
    anchor: Annotated[
        str | None, typer.Option(metavar="SEQ:HASH", help="An anchor from an earlier verification.")
    ] = None,
    anchor_file: Annotated[Path | None, typer.Option(help="A file with anchors, one per line.", dir_okay=False)] = None,
    write_anchor: Annotated[
        Path | None, typer.Option(help="Add the new anchor to this file if the log is intact.", dir_okay=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Check the hash chain of the access log, and print an anchor: number and hash of the newest entry.

    A changed or removed entry breaks the chain. If the newest entries were cut off, or the whole log was rewritten,
    only an earlier anchor shows it: keep anchors where the owner of the vault cannot write. Exits with 1 if the log is
    not intact.

    Example: loginpipe pii audit verify --anchor-file anchors.txt --write-anchor anchors.txt
    """
    from loginpipe.custody.audit import add_anchor, newest_entry, parse_anchor, read_anchors, verify_log

    anchors = [*([parse_anchor(anchor)] if anchor else []), *(read_anchors(anchor_file) if anchor_file else [])]
    with connect_to_warehouse(load_settings()) as connection, progress() as bar:
        task = bar.add_task("verifying", total=newest_entry(connection))
        found = verify_log(connection, anchors, lambda seq: bar.update(task, completed=seq))
    if as_json:
        print_json(
            {"intact": not found.problems, "head": found.head, "anchors": len(anchors), "problems": found.problems}
        )
        raise typer.Exit(1 if found.problems else 0)
    if found.problems:
        more = len(found.problems) - _PROBLEMS_SHOWN
        problems = "; ".join(found.problems[:_PROBLEMS_SHOWN]) + (f"; and {more} more" if more > 0 else "")
        raise AuditError(f"the access log is not intact: {problems}; see docs/security.md")
    if write_anchor:
        add_anchor(write_anchor, found.head)
    out.print(str(found.head))
    against = (
        f" and match {len(anchors)} anchors"
        if anchors
        else "; without an anchor, entries cut off at the end do not show"
    )
    notes.print(
        f"{found.head.seq:,} entries are intact{against}. Keep the line above where the owner of the vault cannot write"
    )


def _cells(entry: "Entry") -> tuple[str, ...]:
    subjects = "" if entry.subjects is None else str(len(entry.subjects))
    said = "; ".join(filter(None, (entry.purpose, entry.detail)))
    named = (entry.actor, entry.action, entry.request_id or "", subjects, entry.ticket or "", said)
    return (str(entry.seq), f"{entry.at:%Y-%m-%d %H:%M:%S}", *map(printable, named))


def _json(entry: "Entry") -> dict[str, Any]:
    return {**asdict(entry), "previous_hash": entry.previous_hash.hex(), "hash": entry.hash.hex()}
