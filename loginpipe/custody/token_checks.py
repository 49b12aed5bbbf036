"""Whether an opened value is the one that its token stands for: the token is made again from it. Pure.

The pipeline can seal whatever it likes under any token, since sealing takes a public key only. What it cannot do
without being found out here is to give one token's value out as another's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from loginpipe.logins.canonical import canonical_address
from loginpipe.masking.compat import CompatMasking
from loginpipe.masking.tokens import PREFIXES, TokenKeys, token_pattern

BODY = "body"
"""The field of a rejected message's body, whose subject is the message's id."""


@dataclass(frozen=True)
class TokenChecks:
    """The keys to make tokens again with.

    Attributes:
        keys: the token keys; None where there are none.
        compat: the older schemes that tokens may be of.
    """

    keys: TokenKeys | None = field(repr=False)
    compat: Sequence[CompatMasking] = ()

    def fits(self, token: str, field_name: str, plaintext: bytes) -> bool | None:
        """Say whether a token stands for a value; None where no key at hand can tell."""
        version = token_version(token)
        if version is not None:
            if self.keys is None or version not in self.keys.field_keys:
                return None
            return token in self._keyed(field_name, plaintext, [version])
        schemes = [scheme for scheme in self.compat if scheme.pattern.fullmatch(token)]
        return any(scheme.tokens([plaintext]) == [token] for scheme in schemes) if schemes else None

    def all_of(self, field_name: str, plaintext: bytes) -> list[str]:
        """Return every token that a value can have; none where it is no value of that field."""
        versions = list(self.keys.field_keys) if self.keys else []
        return self._keyed(field_name, plaintext, versions) + [t for c in self.compat for t in c.tokens([plaintext])]

    def _keyed(self, field_name: str, plaintext: bytes, versions: Sequence[int]) -> list[str]:
        value = canonical(field_name, plaintext)
        if value is None or self.keys is None:
            return []
        return [self.keys.tokens(field_name, [value], version)[0] for version in versions]


def canonical(field_name: str, plaintext: bytes) -> bytes | None:
    """Return what a sealed value's token is made of; None where it is no value of that field."""
    if field_name != "ip":
        return plaintext if field_name in PREFIXES else None
    try:
        return canonical_address(plaintext.decode())
    except ValueError:
        return None


def token_version(token: str) -> int | None:
    """Return the key version in a token; None where it is of an older scheme, or no token."""
    if any(token_pattern(name).fullmatch(token) for name in PREFIXES):
        return int(token.split(".")[1].removeprefix("v"))
    return None


def is_message_id(subject: str) -> bool:
    """Say whether a subject is a message's id, as the database writes it, and not a token of some scheme."""
    try:
        return str(UUID(subject)) == subject
    except ValueError:
        return False
