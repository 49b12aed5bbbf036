"""The way to sealed values through the database: request, approval, release. What each refusal means, and the mend.

The database decides, and keeps a record of what it granted and of what it refused. Each call is a transaction of its
own, committed also when it was refused: a release is granted only for a request that was committed before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from loginpipe.common.errors import AccessRefusedError, LoginpipeError
from loginpipe.masking.sealing import SealedValue, WrappedDataKey
from loginpipe.postgres.connections import Connection, transaction

SUBJECTS_MOST = 256
"""Tokens and message ids in one request."""

REFUSALS = {
    "purpose_too_short": "a purpose of at least 10 characters is wanted: say why the values are needed",
    "no_ticket": "a ticket is wanted: name the one that asks for this",
    "too_many_subjects": f"a request is for {SUBJECTS_MOST} tokens at most, their aliases included: split it",
    "no_subjects": "what was asked for is neither a token nor a message id: take it from the table as it is",
    "unknown_request": "there is no such request: `loginpipe pii request` makes one",
    "of_another_role": "another role made the request, and it is released to that one only: request it yourself",
    "expired": "the request is too old: it is good for 15 minutes, or for 24 hours to be approved; request again",
    "released_before": "the request was released before, and each is good for once: request again",
    "not_committed": "the request is not committed: commit it first",
    "needs_approval": "the request wants a second person: let another custodian run `loginpipe pii approve` on it",
    "own_request": "the request is your own: let another custodian approve it",
    "approved_before": "the request was approved before: `loginpipe pii recover` is what comes next",
    "bulk_request": "a bulk request releases nothing itself: give it to `loginpipe pii rotate` or `rejects replay`",
    "unusable_parent": "the bulk request is not yours, none, or more than 24 hours old: make another",
}
"""Refusal code → what happened and what to do."""


@dataclass(frozen=True)
class Request:
    """A request on record; it releases nothing before a second person has approved it, where that is wanted."""

    request_id: UUID
    needs_approval: bool


@dataclass(frozen=True)
class Reason:
    """Why custodians want something: both go on record."""

    purpose: str
    ticket: str


@dataclass(frozen=True)
class Bulk:
    """A bulk request, and the reason that goes on record with each request under it."""

    request_id: UUID
    reason: Reason


@dataclass(frozen=True)
class Released:
    """A sealed value as released, and its data key wrapped for each of its recipients, sorted by fingerprint."""

    value: SealedValue
    data_keys: tuple[WrappedDataKey, ...]

    @property
    def recipients(self) -> list[str]:
        """The fingerprints of the keys that the data key is wrapped for."""
        return [data_key.recipient for data_key in self.data_keys]


def request_access(
    connection: Connection, subjects: Sequence[str] | None, reason: Reason, under: UUID | None = None
) -> Request:
    """Put on record what is to be seen and why.

    Args:
        connection: with no transaction open.
        subjects: tokens and message ids; None for a bulk request, under which others are made for 24 hours.
        reason: why.
        under: the bulk request that this one belongs to.

    Raises:
        AccessRefusedError: with the refusal code.
    """
    wanted = list(subjects) if subjects is not None else None
    ((request_id, refusal, needs_approval),) = called(
        connection,
        "SELECT request_id::text, refusal, needs_approval FROM vault.request_access(%s::text[], %s, %s, %s::uuid)",
        (wanted, reason.purpose, reason.ticket, str(under) if under else None),
    )
    refuse(refusal)
    return Request(UUID(request_id), bool(needs_approval))


def approve(connection: Connection, request_id: UUID) -> None:
    """Approve the request of another role.

    Raises:
        AccessRefusedError: with the refusal code.
    """
    ((refusal,),) = called(connection, "SELECT vault.approve_access(%s::uuid)", (str(request_id),))
    refuse(refusal)


def release(connection: Connection, request_id: UUID) -> list[Released]:
    """Return what a request is for, sealed as it is: once. What is not there does not appear.

    Raises:
        AccessRefusedError: with the refusal code.
    """
    rows = called(
        connection,
        'SELECT refusal, subject, field, data_key_id::text, "position", ciphertext, recipients, wrapped_keys '
        "FROM vault.release(%s::uuid)",
        (str(request_id),),
    )
    released = []
    for refusal, subject, field_name, key, position, ciphertext, recipients, wrapped_keys in rows:
        refuse(refusal)
        data_keys = zip(recipients, wrapped_keys, strict=True)
        released.append(
            Released(
                SealedValue(subject, field_name, UUID(key), position, bytes(ciphertext)),
                tuple(WrappedDataKey(UUID(key), recipient, bytes(wrapped)) for recipient, wrapped in data_keys),
            )
        )
    return released


def release_under(connection: Connection, bulk: Bulk, subjects: Sequence[str]) -> list[Released]:
    """Request values under a bulk request, and have them released: as `request_access` and `release`."""
    return release(connection, request_access(connection, subjects, bulk.reason, bulk.request_id).request_id)


def set_second_person(connection: Connection, *, required: bool, ticket: str) -> None:
    """Demand, or no longer demand, that a second person approves each request. For the owner of the vault.

    Raises:
        AccessRefusedError: no ticket.
    """
    if not ticket.strip():
        raise AccessRefusedError(REFUSALS["no_ticket"], "no_ticket")
    called(connection, "SELECT vault.set_second_person(%s, %s)", (required, ticket))


def called(connection: Connection, query: str, parameters: tuple[object, ...]) -> list[tuple[Any, ...]]:
    """Call a function of the vault in a transaction of its own, and return its rows.

    Raises:
        LoginpipeError: a parameter is no text that a database can hold.
    """
    with transaction(connection) as cursor:
        # The functions demand it, and a role or a database may have another one as its default.
        cursor.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        try:
            cursor.execute(query, parameters)
        except ValueError:
            raise LoginpipeError("what was given is no Unicode text, or has a NUL in it: type it again") from None
        return cursor.fetchall()


def refuse(code: str | None) -> None:
    """Raise the error of a refusal code; None is none.

    Raises:
        AccessRefusedError: with the code.
    """
    if code is not None:
        says = REFUSALS.get(code, "this version of loginpipe does not know why: upgrade it")
        raise AccessRefusedError(f"refused, and on record as {code}: {says}", code)
