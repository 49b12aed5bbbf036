"""Check whether a value belongs to a token, and find the token's aliases.

Sealing needs a public key only, so the pipeline can seal anything under any token. These checks reveal one token's
value under another token. The pipeline writes aliases too, so an alias proves nothing: a value found by one is checked.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from loginpipe.logins.canonical import canonical_address
from loginpipe.masking.compat import SALTED, CompatMasking, schemes_of
from loginpipe.masking.tokens import PREFIXES, TokenKeys, token_pattern
from loginpipe.postgres.connections import Connection, fetch
from loginpipe.postgres.statements import statement

BODY = "body"
"""The field of a rejected message's body. Its subject is the message id."""
EXTRAS = "extras"
"""The field of a login's fields outside the contract. Its subject is the message id."""
OF_MESSAGES = frozenset({BODY, EXTRAS})
"""Fields that are sealed under a message id, so that no token can prove them."""


@dataclass(frozen=True)
class TokenChecks:
    """The keys to compute tokens again: the token keys, if any, and the older schemes that may have made tokens."""

    keys: TokenKeys | None = field(repr=False)
    compat: Sequence[CompatMasking] = ()

    def fits(self, token: str, field_name: str, plaintext: bytes) -> bool | None:
        """Return True if a token belongs to a value, or None if no given key can check it."""
        version = token_version(token)
        if version is not None:
            if self.keys is None or version not in self.keys.field_keys:
                return None
            value = canonical(field_name, plaintext)
            return value is not None and self.keys.tokens(field_name, [value], version) == [token]
        if any(scheme.tokens([plaintext]) == [token] for scheme in self.compat):
            return True
        # A token of the salted scheme has the same form as one without salt.
        schemes = schemes_of(token) & {SALTED, *(scheme.name for scheme in self.compat)}
        return False if schemes and schemes <= {scheme.name for scheme in self.compat} else None


def canonical(field_name: str, plaintext: bytes) -> bytes | None:
    """Return the bytes that a sealed value's token is made of, or None if it is no value of that field."""
    if field_name != "ip":
        return plaintext if field_name in PREFIXES else None
    try:
        return canonical_address(plaintext.decode())
    except ValueError:
        return None


def token_version(token: str) -> int | None:
    """Return the key version in a token, or None if it is of an older scheme or no token."""
    if any(token_pattern(name).fullmatch(token) for name in PREFIXES):
        return int(token.split(".")[1].removeprefix("v"))
    return None


Families: TypeAlias = Mapping[str, Sequence[str]]
"""Tokens grouped by aliases: token → its whole family, itself included, newest first. Only tokens with aliases."""


def families(aliases: Iterable[tuple[str, str]]) -> Families:
    """Group tokens by aliases, pairs of old and new token. No new token may be an old one in another pair."""
    by_newest: dict[str, list[str]] = {}
    for old, new in aliases:
        by_newest.setdefault(new, [new]).append(old)
    return {token: family for family in by_newest.values() for token in family}


def read_families(connection: Connection, tokens: Sequence[str]) -> Families:
    """Read the families of tokens from the database."""
    return families((old, new) for old, new in fetch(connection, statement("token_families"), (list(tokens),)))
