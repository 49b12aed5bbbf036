"""Compare the token keys with the database, and mark the tokens of placeholders there.

A wrong key is noticed before it gives every known device a second token.
"""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from loginpipe.common.errors import DatabaseError, TokenKeyMismatchError
from loginpipe.masking.tokens import PlaceholderToken, TokenKeys
from loginpipe.postgres.connections import Connection, fetch, rows_of, transaction
from loginpipe.postgres.statements import statement

_NO_PRIVILEGE = "42501"
_FORGET_LOST_KEY = "UPDATE loginpipe.token_key_checks SET successor_hash = NULL"


def check_token_keys(connection: Connection, keys: TokenKeys) -> None:
    """Record the check values of key versions used for the first time, and compare the others.

    Versions above the current one are not recorded, because a file may hold the next one before every machine has it.

    Raises:
        TokenKeyMismatchError: a version was used with another key before, or a newer version than the current one was
            used; or a version is new and the newest one before it is not held.
    """
    recorded = require_known_keys(connection, keys)
    newest, proofs = max(recorded, default=0), keys.successor_proofs()
    with transaction(connection) as cursor:
        for version, check_value in sorted(keys.check_values().items()):
            if version in recorded or version > keys.current:
                continue
            row = (version, check_value, sha256(proofs[version]).digest(), proofs.get(newest))
            if rows_of(cursor, "SELECT loginpipe.record_token_key(%s::smallint, %s, %s, %s)", row) != [(True,)]:
                raise TokenKeyMismatchError(
                    f"token key version {version} is new to this database, and the newest version it knows is not "
                    "among the keys of this machine (`loginpipe keys status`): add that one for the first run; if it "
                    f"is lost, let the owner run `{_FORGET_LOST_KEY}`"
                )
            newest = max(newest, version)
    # Again, because another run may have recorded another key or a newer version in between.
    require_known_keys(connection, keys)


def require_known_keys(connection: Connection, keys: TokenKeys) -> set[int]:
    """Compare the check values of the key versions used before, and return these versions. Records nothing.

    Raises:
        TokenKeyMismatchError: as `check_token_keys`.
    """
    found = fetch(connection, "SELECT key_version, check_value FROM loginpipe.token_key_checks")
    recorded = {version: bytes(check_value) for version, check_value in found}
    for version, check_value in keys.check_values().items():
        if recorded.get(version, check_value) != check_value:
            raise TokenKeyMismatchError(
                f"token key version {version} is not the key that this database's tokens of version {version} were "
                "made with: restore the right key, or use another database"
            )
    newest = max(recorded, default=0)
    if newest > keys.current:
        raise TokenKeyMismatchError(
            f"the current token key is version {keys.current}, and this database has tokens of version {newest} "
            f"already: give this machine the keys with version {newest}, and make that the current one"
        )
    return set(recorded)


def newest_key_version(connection: Connection) -> int:
    """Return the highest version of the token key that tokens were made with; 0 without tokens."""
    ((version,),) = fetch(connection, "SELECT coalesce(max(key_version), 0) FROM loginpipe.token_key_checks")
    return int(version)


def recorded_versions(connection: Connection) -> tuple[int, ...] | None:
    """Return the key versions that runs have used so far; None if the role may not read them."""
    rows = _visible(connection, "SELECT key_version FROM loginpipe.token_key_checks ORDER BY key_version")
    return None if rows is None else tuple(version for (version,) in rows)


def sealed_by_version(connection: Connection) -> Mapping[int | None, int] | None:
    """Return key version → values in the vault; the version None stands for values of an older masking.

    Reads every token of the vault. None if the role may not read tokens.
    """
    rows = _visible(connection, statement("sealed_values_by_version"))
    return None if rows is None else dict(rows)


def _visible(connection: Connection, query: str) -> list[tuple[Any, ...]] | None:
    try:
        return fetch(connection, query)
    except DatabaseError as error:
        if error.sqlstate == _NO_PRIVILEGE:
            return None
        raise


def mark_placeholders(connection: Connection, placeholders: Sequence[PlaceholderToken]) -> None:
    """Update ``loginpipe.placeholder_tokens`` to the current list of placeholders.

    A new placeholder counts as one in earlier logins too, and is removed from the tables of duplicates. A token that is
    no longer in the list is removed, if the key that made it is among the current keys.
    """
    columns = {
        "tokens": [each.token for each in placeholders],
        "fields": [each.field for each in placeholders],
        "made_by": [each.made_by for each in placeholders],
    }
    with transaction(connection) as cursor:
        cursor.execute(statement("mark_placeholders"), columns)
