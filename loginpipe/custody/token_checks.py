"""What is known of a token: whether a value is the one it stands for, and which tokens are its aliases.

The pipeline can seal whatever it likes under any token, since sealing takes a public key only. What it cannot do
without being found out here is to give one token's value out as another's. An alias is written by the pipeline too, so
it leads to a value and proves nothing: what is found by one is checked.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from loginpipe.logins.canonical import canonical_address
from loginpipe.masking.compat import SALTED, CompatMasking, schemes_of
from loginpipe.masking.tokens import PREFIXES, TokenKeys, token_pattern
from loginpipe.postgres.connections import Connection, transaction
from loginpipe.postgres.statements import statement

BODY = "body"
"""The field of a rejected message's body, whose subject is the message's id."""
EXTRAS = "extras"
"""The field of what a login carries beside the fields of the contract, whose subject is the message's id, too."""
OF_MESSAGES = frozenset({BODY, EXTRAS})
"""What is sealed under a message's id, so that no token tells whether it is the right one."""


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
            value = canonical(field_name, plaintext)
            return value is not None and self.keys.tokens(field_name, [value], version) == [token]
        if any(scheme.tokens([plaintext]) == [token] for scheme in self.compat):
            return True
        # A token of the salted scheme looks like one without salt.
        schemes = schemes_of(token) & {SALTED, *(scheme.name for scheme in self.compat)}
        return False if schemes and schemes <= {scheme.name for scheme in self.compat} else None


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


@dataclass(frozen=True)
class Families:
    """Tokens and those they are aliases of.

    Attributes:
        members: token → all of its family, the newest first, itself among them.
    """

    members: Mapping[str, tuple[str, ...]]

    def of(self, token: str) -> tuple[str, ...]:
        """Return a token's family; it is one of its own where there are no aliases."""
        return self.members.get(token, (token,))

    def of_all(self, tokens: Iterable[str]) -> list[str]:
        """Return the families of several tokens, each token once; the given ones first."""
        given = list(dict.fromkeys(tokens))
        return list(dict.fromkeys([*given, *(member for token in given for member in self.of(token))]))


def families(aliases: Iterable[tuple[str, str]]) -> Families:
    """Put families together.

    Args:
        aliases: old token and new one, the new one being no old one itself.
    """
    by_newest: dict[str, list[str]] = {}
    for old, new in aliases:
        by_newest.setdefault(new, [new]).append(old)
    return Families({token: tuple(family) for family in by_newest.values() for token in family})


def read_families(connection: Connection, tokens: Sequence[str]) -> Families:
    """Read the families of tokens."""
    with transaction(connection) as cursor:
        cursor.execute(statement("token_families"), (list(tokens),))
        return families(cursor.fetchall())
