"""Erase a user: delete the logins and sealed values, and leave a tombstone that rejects messages sent again.

There are two steps, both recorded. Aliases are written by the pipeline and may be planted. A false one would keep a
value that must go, or delete a value of another user. So the value itself verifies each alias of the user's tokens.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from uuid import UUID

from loginpipe.common.errors import LoginpipeError
from loginpipe.custody.access import Reason, Release, Request, called, fetched, refuse, release, requested
from loginpipe.custody.opening import DataKeys, Opened, Opener, Opening, open_released
from loginpipe.custody.token_checks import TokenChecks, canonical
from loginpipe.logins.parsing import is_unicode
from loginpipe.masking.tokens import TokenKeys
from loginpipe.postgres.connections import READ_COMMITTED, Connection, transaction
from loginpipe.postgres.copy import copy_rows
from loginpipe.postgres.statements import statement

LIMITS = (
    "The data is still in: the archive's files, until the next run of archive_logins (every night at 02:00 UTC; in a "
    "bucket with versioning, until its lifecycle rule deletes old versions); backups and write-ahead logs, until they "
    "expire (docs/backups.md); replicas that lag. Not erased: sealed bodies of rejected messages, which cannot be "
    "searched by user; values that other users' logins share; data keys, each of which seals up to 256 values; values "
    "that were recovered before. Messages sent before now will not be loaded; later logins of the user will."
)


@dataclass(frozen=True)
class Erasure:
    """The result of an erasure. The values of the named tokens stay.

    Attributes:
        kept: the user's tokens that other logins share.
        unverified: aliases of the user's tokens that no given value and key proves.
        planted: aliases of the user's tokens that stand for another value.
        dropped: first and last day that was dropped from the table. The archive files of these days hold the user.
    """

    logins: int
    sealed_values: int
    kept: tuple[str, ...] = ()
    unverified: tuple[str, ...] = ()
    planted: tuple[str, ...] = ()
    dropped: tuple[date, date] | None = None


def request_erasure(connection: Connection, user_id: str, tombstones: Mapping[int, bytes], reason: Reason) -> Request:
    """Record a request to erase a user and its reason. The id is in no SQL statement, so not in the server's log.

    ``tombstones`` are those of `TokenKeys.tombstones`.

    Raises:
        AccessRefusedError: the database refused.
        LoginpipeError: the user id is blank, or is text that Postgres cannot store.
    """
    if not user_id.strip():
        raise LoginpipeError("the user id is blank: copy it from user_logins")
    if "\x00" in user_id or not is_unicode(user_id):
        raise LoginpipeError("the user id is not valid Unicode text, or contains a NUL: type it again")
    hexes = json.dumps({str(version): tombstone.hex() for version, tombstone in tombstones.items()})
    query = "SELECT request_id::text, refusal, needs_approval FROM vault.request_erasure(%s::jsonb, %s, %s)"
    with transaction(connection, READ_COMMITTED) as cursor:
        copy_rows(cursor, "vault.erasure_requests", ("user_id",), [[user_id]])
        rows = fetched(cursor, query, (hexes, reason.purpose, reason.ticket))
    return requested(rows)


def erase(connection: Connection, request_id: UUID, keys: TokenKeys, opener: Callable[[], Opener]) -> Erasure:
    """Delete the user's logins and the sealed values that no other user shares. The access log records it.

    The request is a committed `request_erasure` of this role. ``opener`` is called only if a token has aliases.

    Raises:
        AccessRefusedError: the database refused.
        OpeningError: a value is sealed for other private keys. Nothing was deleted.
    """
    found = release(connection, request_id, function="vault.release_for_erasure")
    verified = verify_aliases(found, opener, TokenChecks(keys))
    values = verified.values
    seen = sorted({subject for family in found.places.values() for subject in family})
    to_erase = {"request": str(request_id), "tokens": list(values), "values": list(values.values()), "seen": seen}
    ((refusal, logins, sealed, kept, first, last),) = called(connection, statement("erase_user"), to_erase)
    refuse(refusal)
    dropped = (first, last) if first else None
    return Erasure(logins, sealed, tuple(sorted(kept)), verified.unverified, verified.planted, dropped)


@dataclass(frozen=True)
class VerifiedAliases:
    """Aliases that could not be verified, and those that stand for another value.

    ``values`` is token → a name of its value, for the value's tokens of every key version, with or without an alias.
    """

    values: Mapping[str, str]
    unverified: tuple[str, ...]
    planted: tuple[str, ...]


def verify_aliases(found: Release, opener: Callable[[], Opener], checks: TokenChecks) -> VerifiedAliases:
    """Verify the aliases of tokens with the values sealed under them, if any. Raise as `Opening.require_recipient`."""
    opening = open_released(found.found, DataKeys(opener()), checks) if found.found else Opening({}, [])
    opening.require_recipient()
    values: dict[str, str] = {}
    unverified, planted = set(), set()
    for token, family in found.places.items():
        aliases = set(family) - {token}
        opened = _value_of(token, family, opening, checks) if aliases else None
        if opened is None:
            unverified |= aliases
            continue
        value = canonical(opened.field_name, opened.plaintext)
        made = checks.keys.tokens_of_every_version(opened.field_name, value) if checks.keys and value else []
        name = made[-1] if made else token
        values |= dict.fromkeys([token, *made], name)
        for alias in aliases - set(made):
            # If there is no key of the alias' version, compare the value that is sealed under it.
            if checks.fits(alias, opened.field_name, opened.plaintext) is False:
                planted.add(alias)
            elif alias in opening.opened and opening.opened[alias].plaintext == opened.plaintext:
                values[alias] = name
            else:
                unverified.add(alias)
    return VerifiedAliases(values, tuple(sorted(unverified)), tuple(sorted(planted)))


def _value_of(token: str, family: tuple[str, ...], opening: Opening, checks: TokenChecks) -> Opened | None:
    """Return the value sealed under a token, or under an alias if it gives the token; None if there is none."""
    own = opening.opened.get(token)
    if own is not None:
        return own
    others = (opening.opened[member] for member in family if member in opening.opened)
    return next((each for each in others if checks.fits(token, each.field_name, each.plaintext)), None)
