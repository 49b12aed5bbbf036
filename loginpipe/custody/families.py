"""The tokens of one value under the versions of the token key: its family, as the aliases in the database have it.

An alias is written by the pipeline, so it leads to a value and proves nothing: what is found by one is checked.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from loginpipe.postgres.connections import Connection, transaction
from loginpipe.postgres.statements import statement


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
    """Read the families of tokens.

    Args:
        connection: with no transaction open.
        tokens: of any version; what is none has no family.
    """
    with transaction(connection) as cursor:
        cursor.execute(statement("token_families"), (list(tokens),))
        return families(cursor.fetchall())
