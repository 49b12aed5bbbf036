"""Get sealed values from the database: request, approve, release. Explain each refusal.

The database decides, and records what it granted and refused: a call that it refuses raises AccessRefusedError. Each
call is a transaction of its own, committed even if refused. A release requires that the transaction of its request is
committed.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Literal, NamedTuple, TypeAlias
from uuid import UUID

from loginpipe.common.errors import AccessRefusedError, LoginpipeError
from loginpipe.masking.compat import schemes_of
from loginpipe.masking.sealing import SealedValue, WrappedDataKey
from loginpipe.masking.tokens import PREFIXES, token_pattern
from loginpipe.postgres.connections import READ_COMMITTED, Connection, Cursor, rows_of, transaction
from loginpipe.postgres.copy import copy_rows
from loginpipe.postgres.statements import statement

MAX_SUBJECTS = 256
"""Maximum number of tokens and message ids in one request."""

REFUSALS = {
    "purpose_too_short": "the purpose has fewer than 10 characters: say why you need the values",
    "no_ticket": "there is no ticket: specify the one that asks for this",
    "reason_too_long": "the purpose is over 1,000 characters long, or the ticket over 200: shorten it",
    "too_many_subjects": f"a request can have at most {MAX_SUBJECTS} tokens: split it",
    "no_subjects": (
        "one of the values is neither a token nor the id of a message with sealed content: copy it from the table"
    ),
    "no_kind": "a bulk request must be to rotate, replay or backfill, and have a number of values: report this bug",
    "unknown_request": "the request does not exist: make one with `loginpipe pii request`",
    "of_another_role": "another role made the request, and only that role can use it: make your own",
    "expired": "the request expired, after 15 minutes, or 24 hours without approval: request again",
    "released_before": "the request was used before, and can be used once: request again",
    "not_committed": "the transaction of the request is not committed: commit it first",
    "needs_approval": "the request needs approval: ask another custodian to run `loginpipe pii approve`",
    "own_request": "the request is your own: ask another custodian to approve it",
    "approved_before": "the request is already approved: run `loginpipe pii recover`",
    "bulk_request": "a bulk request is not for single values: pass it to its own command with --request",
    "unusable_parent": "the bulk request does not exist, is not yours, or is more than 24 hours old: make a new one",
    "out_of_scope": "the bulk request is for something else, or for fewer values: make a new one",
    "of_an_erasure": "the request is for an erasure: use it with `loginpipe pii erase --request`",
    "erased_before": "the erasure is already done, or was requested more than 24 hours ago: request again",
}
"""Refusal code → what happened and what to do."""


class Request(NamedTuple):
    """A recorded request. If approval is needed, it releases nothing until a second person approves it."""

    request_id: UUID
    needs_approval: bool


# UUIDs with or without hyphens, and longer hashes: user ids, device ids and message ids have this form.
_ID = re.compile(r"[0-9a-f]{8}(?:-?[0-9a-f]{4}){3}-?[0-9a-f]{12,}", re.IGNORECASE)
_ADDRESS_V4 = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?!\d)")


@dataclass(frozen=True)
class Reason:
    """Why a custodian needs the values. Both texts stay in the access log for ever, so neither may contain a value."""

    purpose: str
    ticket: str

    def __post_init__(self) -> None:
        """Raise LoginpipeError for a text with an address or an id. Other device ids than UUIDs are not recognised."""
        _refuse_values("purpose", self.purpose)
        _refuse_values("ticket", self.ticket)


def _refuse_values(name: str, text: str) -> None:
    if _ID.search(text) or _ADDRESS_V4.search(text) or any(map(_is_address, text.split())):
        raise LoginpipeError(
            f"the {name} contains an address or an id, which the access log would keep for ever: describe the case in "
            "words; nothing was recorded"
        )


def _is_address(word: str) -> bool:
    try:
        ip_address(word.strip("()[]<>,.;?!\"'").split("%")[0].split("/")[0])
    except ValueError:
        return False
    # A word like "::" is no one's address.
    return any(character.isalnum() for character in word)


class Bulk(NamedTuple):
    """A bulk request, and the reason recorded with each request under it."""

    request_id: UUID
    reason: Reason


BulkKind: TypeAlias = Literal["rotate", "replay", "backfill"]
"""The purpose of a bulk request: tokens of older versions, rejected messages, or messages with sealed extras."""


@dataclass(frozen=True)
class Released:
    """A sealed value as released, with its data key wrapped for each recipient, sorted by fingerprint.

    `data_keys` is empty if the vault has lost the data key, or the value was planted.
    """

    value: SealedValue
    data_keys: tuple[WrappedDataKey, ...]

    @property
    def recipients(self) -> list[str]:
        """The fingerprints of the public keys that wrapped the data key."""
        return [data_key.recipient for data_key in self.data_keys]


def require_subjects(subjects: Iterable[str]) -> None:
    """Raise LoginpipeError for anything without the form of a token or message id, because it may be a clear value."""
    for subject in subjects:
        is_token = any(token_pattern(name).fullmatch(subject) for name in PREFIXES)
        if not (is_token or is_message_id(subject) or schemes_of(subject)):
            raise LoginpipeError(
                "one of the values is neither a token nor a message id: copy it from the table; nothing was recorded"
            )


def is_message_id(subject: str) -> bool:
    """Return True if a subject is a message id as the database writes it, and not a token."""
    try:
        return str(UUID(subject)) == subject
    except ValueError:
        return False


def require_messages(connection: Connection, subjects: Iterable[str]) -> None:
    """Raise AccessRefusedError for ids of messages that have nothing sealed. A device id may have the same form.

    The ids are in no SQL statement, and so not in the server's log.
    """
    ids = sorted(set(filter(is_message_id, subjects)))
    if not ids:
        return
    with transaction(connection) as cursor:
        cursor.execute(statement("create_asked_messages"))
        copy_rows(cursor, "asked_messages", ("message_id",), [ids])
        if rows_of(cursor, statement("count_unknown_messages")) != [(0,)]:
            raise AccessRefusedError(REFUSALS["no_subjects"], "no_subjects")


def request_access(
    connection: Connection, subjects: Sequence[str], reason: Reason, under: UUID | None = None
) -> Request:
    """Record a request for tokens and message ids, possibly under a bulk request.

    The subjects are in no SQL statement, so not in the server's log.

    Raises:
        AccessRefusedError: the database refused.
        LoginpipeError: a subject has the wrong form. Nothing was sent.
    """
    require_subjects(subjects)
    if under is None:
        require_messages(connection, subjects)
    with transaction(connection, READ_COMMITTED) as cursor:
        cursor.execute(statement("create_asked_subjects"))
        copy_rows(cursor, "asked_subjects", ("subject",), [subjects])
        why = {"purpose": reason.purpose, "ticket": reason.ticket, "under": str(under) if under else None}
        rows = fetched(cursor, statement("request_access"), why)
    return requested(rows)


def request_bulk(connection: Connection, kind: BulkKind, number: int, reason: Reason) -> Request:
    """Record a request for a number of values, for one purpose. It covers requests under it for 24 hours."""
    why = {"purpose": reason.purpose, "ticket": reason.ticket, "kind": kind, "number": number}
    return requested(called(connection, statement("request_bulk"), why))


def requested(rows: list[tuple[Any, ...]]) -> Request:
    """Return the request in the one row of a function of the vault, or raise AccessRefusedError."""
    ((request_id, refusal, needs_approval),) = rows
    refuse(refusal)
    return Request(UUID(request_id), bool(needs_approval))


def approve(connection: Connection, request_id: UUID) -> None:
    """Approve the request of another role."""
    ((refusal,),) = called(connection, "SELECT vault.approve_access(%s::uuid)", (str(request_id),))
    refuse(refusal)


class Release(NamedTuple):
    """The released content of a request.

    Attributes:
        places: each subject of the request, in order → the subjects it may be sealed under: itself and its aliases.
        found: the sealed values of these subjects.
    """

    places: Mapping[str, tuple[str, ...]]
    found: tuple[Released, ...]


_COLUMNS = 'refusal, asked, subject, field, data_key_id::text, "position", ciphertext, recipients, wrapped_keys'


def release(connection: Connection, request_id: UUID, *, function: str = "vault.release") -> Release:
    """Return the sealed values of a request. This works once per request.

    ``function`` is ``vault.release_for_erasure`` for the request of an erasure.
    """
    rows = called(connection, f"SELECT {_COLUMNS} FROM {function}(%s::uuid)", (str(request_id),))  # noqa: S608
    refuse(rows[0][0] if rows else None)
    places: dict[str, tuple[str, ...]] = {}
    found = []
    for _, asked, subject, field_name, key, position, ciphertext, recipients, wrapped_keys in rows:
        places[asked] = (*places.get(asked, ()), subject)
        if ciphertext is not None:
            data_keys = zip(recipients, wrapped_keys, strict=True)
            found.append(
                Released(
                    SealedValue(subject, field_name, UUID(key), position, bytes(ciphertext)),
                    tuple(WrappedDataKey(UUID(key), recipient, bytes(wrapped)) for recipient, wrapped in data_keys),
                )
            )
    return Release(places, tuple(found))


def release_under(connection: Connection, bulk: Bulk, subjects: Sequence[str]) -> tuple[Released, ...]:
    """Request values under a bulk request and release them. Raise the errors of `request_access` and `release`."""
    made = request_access(connection, subjects, bulk.reason, bulk.request_id)
    return release(connection, made.request_id).found


def discard(connection: Connection, request_id: UUID, tokens: Sequence[str]) -> int:
    """Delete released values that do not belong to their tokens, and return the number deleted."""
    query = "SELECT refusal, discarded FROM vault.discard_values(%s::uuid, %s::text[])"
    ((refusal, discarded),) = called(connection, query, (str(request_id), list(tokens)))
    refuse(refusal)
    return int(discarded)


def set_second_person(connection: Connection, *, required: bool, ticket: str) -> None:
    """Set whether a second person must approve each request. Only the owner of the vault may do this.

    Raises:
        AccessRefusedError: there is no ticket.
        LoginpipeError: the ticket contains an address or an id. Nothing was sent.
    """
    _refuse_values("ticket", ticket)
    if not ticket.strip():
        raise AccessRefusedError(REFUSALS["no_ticket"], "no_ticket")
    called(connection, "SELECT vault.set_second_person(%s, %s)", (required, ticket))


def called(connection: Connection, query: str, parameters: Any) -> list[tuple[Any, ...]]:
    """Call a function of the vault in its own transaction, and return its rows. Raise as `fetched`."""
    with transaction(connection, READ_COMMITTED) as cursor:
        return fetched(cursor, query, parameters)


def fetched(cursor: Cursor, query: str, parameters: Any) -> list[tuple[Any, ...]]:
    """Call a function of the vault, and return its rows. Raise LoginpipeError for text that Postgres cannot store."""
    try:
        return rows_of(cursor, query, parameters)
    except ValueError:
        raise LoginpipeError("one of the values is not valid Unicode text, or contains a NUL: type it again") from None


def refuse(code: str | None) -> None:
    """Raise AccessRefusedError for a refusal code; do nothing for None."""
    if code is not None:
        says = REFUSALS.get(code, "this version of loginpipe does not know this code: upgrade it")
        raise AccessRefusedError(f"refused, and recorded as {code}: {says}", code)
