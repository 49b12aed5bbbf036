"""What the database holds of each version of the token key, as far as the role may see it."""

from collections.abc import Mapping
from typing import Any

from loginpipe.common.errors import DatabaseError
from loginpipe.postgres.connections import Connection, transaction
from loginpipe.postgres.statements import statement

_NO_PRIVILEGE = "42501"


def recorded_versions(connection: Connection) -> tuple[int, ...] | None:
    """Return the key versions that runs held so far; None where the role may not see them."""
    rows = _visible(connection, "SELECT key_version FROM loginpipe.token_key_checks ORDER BY key_version")
    return None if rows is None else tuple(version for (version,) in rows)


def sealed_by_version(connection: Connection) -> Mapping[int | None, int] | None:
    """Return key version → values in the vault, None as the version of those that an older masking made.

    Reads every token of the vault. None where the role may not see tokens.
    """
    rows = _visible(connection, statement("sealed_values_by_version"))
    return None if rows is None else dict(rows)


def _visible(connection: Connection, query: str) -> list[tuple[Any, ...]] | None:
    try:
        with transaction(connection) as cursor:
            cursor.execute(query)
            return cursor.fetchall()
    except DatabaseError as error:
        if error.sqlstate == _NO_PRIVILEGE:
            return None
        raise
