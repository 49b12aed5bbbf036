"""Which values are yet to be rotated: what the database says of their tokens."""

from collections.abc import Sequence

from loginpipe.postgres.connections import Connection, Cursor, transaction
from loginpipe.postgres.statements import statement

_ALL = None


def tokens_to_rotate(connection: Connection, version: int, after: str = "", most: int | None = _ALL) -> list[str]:
    """Return tokens of sealed values of older versions that have no alias to the version yet, in order.

    Args:
        connection: of a role that may read tokens, with no transaction open.
        version: the current one.
        after: only tokens that come after this one.
        most: at most so many.
    """
    with transaction(connection) as cursor:
        cursor.execute(statement("tokens_to_rotate"), {"version": version, "after": after, "most": most})
        return [token for (token,) in cursor]


def count_to_rotate(connection: Connection, version: int) -> int:
    """Count the tokens that `tokens_to_rotate` returns."""
    with transaction(connection) as cursor:
        # ours, and without a value in it
        query = f"SELECT count(*) FROM ({statement('tokens_to_rotate')}) AS pending"  # noqa: S608
        cursor.execute(query, {"version": version, "after": "", "most": _ALL})
        ((count,),) = cursor.fetchall()
        return int(count)


def still_there(cursor: Cursor, tokens: Sequence[str]) -> frozenset[str]:
    """Return those of the tokens whose values are still sealed.

    Args:
        cursor: in the transaction that is about to write.
        tokens: as they were a moment ago.
    """
    cursor.execute("SELECT token FROM vault.sealed_values WHERE token = ANY (%s)", (list(tokens),))
    return frozenset(token for (token,) in cursor)
