"""The way to sealed values through the database: request, approval, release. What each refusal means, and what to do.

The database decides, and keeps a record of what it granted and of what it refused. Each call is a transaction of its
own, committed also when it was refused: a release is granted only for a request that was committed before.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Literal, TypeAlias
from uuid import UUID

from loginpipe.common.errors import AccessRefusedError, LoginpipeError
from loginpipe.masking.compat import schemes_of
from loginpipe.masking.sealing import SealedValue, WrappedDataKey
from loginpipe.masking.tokens import PREFIXES, token_pattern
from loginpipe.postgres.connections import Connection, Cursor, transaction
from loginpipe.postgres.copy import copy_rows
from loginpipe.postgres.statements import statement

MAX_SUBJECTS = 256
"""Tokens and message ids in one request."""

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


@dataclass(frozen=True)
class Request:
    """A request on record; it releases nothing before a second person has approved it, where that is wanted."""

    request_id: UUID
    needs_approval: bool


# A UUID with or without its hyphens, and longer hashes: user ids, device ids and message ids look like that.
_ID = re.compile(r"[0-9a-f]{8}(?:-?[0-9a-f]{4}){3}-?[0-9a-f]{12,}", re.IGNORECASE)
_ADDRESS_V4 = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?!\d)")


@dataclass(frozen=True)
class Reason:
    """Why custodians want something: both go on record, for ever, so neither may hold a value.

    Raises:
        LoginpipeError: there is an address or an id in one of them; nothing was sent.
    """

    purpose: str
    ticket: str

    def __post_init__(self) -> None:
        """Refuse values; device ids of any form cannot be told from words."""
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
    # A word as "::" is no address of anybody.
    return any(character.isalnum() for character in word)


@dataclass(frozen=True)
class Bulk:
    """A bulk request, and the reason that goes on record with each request under it."""

    request_id: UUID
    reason: Reason


BulkKind: TypeAlias = Literal["rotate", "replay", "backfill"]
"""What a bulk request is for: tokens of older versions, rejected messages, or messages with sealed extras."""


@dataclass(frozen=True)
class Released:
    """A sealed value as released, and its data key wrapped for each of its recipients, sorted by fingerprint.

    Attributes:
        data_keys: none where the vault has lost it, or the value was planted.
    """

    value: SealedValue
    data_keys: tuple[WrappedDataKey, ...]

    @property
    def recipients(self) -> list[str]:
        """The fingerprints of the keys that the data key is wrapped for."""
        return [data_key.recipient for data_key in self.data_keys]


def require_subjects(subjects: Iterable[str]) -> None:
    """Refuse what has not the form of a token or a message id, before it is sent: a clear value may be among it.

    Raises:
        LoginpipeError: something has another form.
    """
    for subject in subjects:
        if not (_is_token(subject) or is_message_id(subject) or schemes_of(subject)):
            raise LoginpipeError(
                "one of the values is neither a token nor a message id: copy it from the table; nothing was recorded"
            )


def _is_token(subject: str) -> bool:
    return any(token_pattern(name).fullmatch(subject) for name in PREFIXES)


def is_message_id(subject: str) -> bool:
    """Say whether a subject is a message's id, as the database writes it, and not a token of some scheme."""
    try:
        return str(UUID(subject)) == subject
    except ValueError:
        return False


def require_messages(connection: Connection, subjects: Iterable[str]) -> None:
    """Refuse ids of messages that have nothing sealed: a device id that is a UUID looks the same.

    Raises:
        AccessRefusedError: there is one. The id itself is in no statement, and so in no log of the server.
    """
    ids = sorted(set(filter(is_message_id, subjects)))
    if not ids:
        return
    with transaction(connection) as cursor:
        cursor.execute(statement("create_asked_messages"))
        copy_rows(cursor, "asked_messages", ("message_id",), [ids])
        cursor.execute(statement("count_unknown_messages"))
        if cursor.fetchone() != (0,):
            raise AccessRefusedError(REFUSALS["no_subjects"], "no_subjects")


def request_access(
    connection: Connection, subjects: Sequence[str], reason: Reason, under: UUID | None = None
) -> Request:
    """Put on record what is to be seen and why. What is asked for is in no statement, and in no log of the server.

    Args:
        connection: with no transaction open.
        subjects: tokens and message ids.
        reason: why.
        under: the bulk request that this one belongs to.

    Raises:
        AccessRefusedError: with the refusal code.
        LoginpipeError: a subject has not the form of one; nothing was sent.
    """
    require_subjects(subjects)
    if under is None:
        require_messages(connection, subjects)
    with custody_transaction(connection) as cursor:
        cursor.execute(statement("create_asked_subjects"))
        copy_rows(cursor, "asked_subjects", ("subject",), [subjects])
        rows = fetched(
            cursor,
            "SELECT request_id::text, refusal, needs_approval "
            "FROM vault.request_access(ARRAY(SELECT subject FROM asked_subjects), %s, %s, %s::uuid)",
            (reason.purpose, reason.ticket, str(under) if under else None),
        )
    return _requested(rows)


def request_bulk(connection: Connection, kind: BulkKind, number: int, reason: Reason) -> Request:
    """Put on record that many values are to be seen, in requests of their own for 24 hours.

    Args:
        connection: with no transaction open.
        kind: what for; requests for anything else are refused.
        number: for how many values.
        reason: why.

    Raises:
        AccessRefusedError: with the refusal code.
    """
    rows = called(
        connection,
        "SELECT request_id::text, refusal, needs_approval FROM vault.request_access(NULL, %s, %s, NULL, %s, %s)",
        (reason.purpose, reason.ticket, kind, number),
    )
    return _requested(rows)


def _requested(rows: list[tuple[Any, ...]]) -> Request:
    ((request_id, refusal, needs_approval),) = rows
    refuse(refusal)
    return Request(UUID(request_id), bool(needs_approval))


def approve(connection: Connection, request_id: UUID) -> None:
    """Approve the request of another role.

    Raises:
        AccessRefusedError: with the refusal code.
    """
    ((refusal,),) = called(connection, "SELECT vault.approve_access(%s::uuid)", (str(request_id),))
    refuse(refusal)


@dataclass(frozen=True)
class Release:
    """What a request is for.

    Attributes:
        places: each thing asked for, in order → where it may be sealed: under itself, and under its aliases.
        found: the sealed values there.
    """

    places: Mapping[str, tuple[str, ...]]
    found: tuple[Released, ...]


def release(connection: Connection, request_id: UUID) -> Release:
    """Return what a request is for, sealed as it is: once.

    Raises:
        AccessRefusedError: with the refusal code.
    """
    rows = called(connection, f"SELECT {RELEASED} FROM vault.release(%s::uuid)", (str(request_id),))  # noqa: S608
    refuse(rows[0][0] if rows else None)
    return read_release(rows)


RELEASED = 'refusal, asked, subject, field, data_key_id::text, "position", ciphertext, recipients, wrapped_keys'
"""The columns of ``vault.release`` and ``vault.release_for_erasure``."""


def read_release(rows: Iterable[tuple[Any, ...]]) -> Release:
    """Return what rows of `RELEASED` hold; there is no value in a row without a ciphertext."""
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
    """Request values under a bulk request, and have them released: as `request_access` and `release`."""
    made = request_access(connection, subjects, bulk.reason, bulk.request_id)
    return release(connection, made.request_id).found


def discard(connection: Connection, request_id: UUID, tokens: Sequence[str]) -> int:
    """Delete sealed values of a release that are not what their tokens stand for; return how many.

    Raises:
        AccessRefusedError: with the refusal code.
    """
    ((refusal, discarded),) = called(
        connection,
        "SELECT refusal, discarded FROM vault.discard_values(%s::uuid, %s::text[])",
        (str(request_id), list(tokens)),
    )
    refuse(refusal)
    return int(discarded)


def set_second_person(connection: Connection, *, required: bool, ticket: str) -> None:
    """Demand, or no longer demand, that a second person approves each request. For the owner of the vault.

    Raises:
        AccessRefusedError: no ticket.
        LoginpipeError: there is an address or an id in the ticket; nothing was sent.
    """
    _refuse_values("ticket", ticket)
    if not ticket.strip():
        raise AccessRefusedError(REFUSALS["no_ticket"], "no_ticket")
    called(connection, "SELECT vault.set_second_person(%s, %s)", (required, ticket))


@contextmanager
def custody_transaction(connection: Connection) -> Iterator[Cursor]:
    """Open a transaction as the functions of the vault demand it; give a cursor. Raises as `transaction` does."""
    with transaction(connection) as cursor:
        # A role or a database may have another isolation level as its default.
        cursor.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        yield cursor


def called(connection: Connection, query: str, parameters: tuple[object, ...]) -> list[tuple[Any, ...]]:
    """Call a function of the vault in a transaction of its own, and return its rows.

    Raises:
        LoginpipeError: a parameter is no text that a database can hold.
    """
    with custody_transaction(connection) as cursor:
        return fetched(cursor, query, parameters)


def fetched(cursor: Cursor, query: str, parameters: tuple[object, ...]) -> list[tuple[Any, ...]]:
    """Call a function of the vault, and return its rows.

    Raises:
        LoginpipeError: a parameter is no text that a database can hold.
    """
    try:
        cursor.execute(query, parameters)
    except ValueError:
        raise LoginpipeError("one of the values is not valid Unicode text, or contains a NUL: type it again") from None
    return cursor.fetchall()


def refuse(code: str | None) -> None:
    """Raise the error of a refusal code; None is none.

    Raises:
        AccessRefusedError: with the code.
    """
    if code is not None:
        says = REFUSALS.get(code, "this version of loginpipe does not know this code: upgrade it")
        raise AccessRefusedError(f"refused, and recorded as {code}: {says}", code)
