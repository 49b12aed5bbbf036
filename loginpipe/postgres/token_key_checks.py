"""The check values of token keys: a wrong key is noticed before it gives every known device a second token."""

from collections.abc import Mapping

from loginpipe.errors import TokenKeyMismatchError
from loginpipe.postgres.connections import Connection, transaction


def check_token_keys(connection: Connection, check_values: Mapping[int, bytes]) -> None:
    """Record the check values of key versions seen for the first time, and compare the others.

    Args:
        connection: with no transaction open.
        check_values: by key version; see `loginpipe.masking.tokens.TokenKeys.check_values`.

    Raises:
        TokenKeyMismatchError: a version was used with another key before.
    """
    require_known_keys(connection, check_values)
    with transaction(connection) as cursor:
        for version, check_value in sorted(check_values.items()):
            cursor.execute(
                "INSERT INTO loginpipe.token_key_checks (key_version, check_value) VALUES (%s, %s) "
                "ON CONFLICT (key_version) DO NOTHING",
                (version, check_value),
            )
    # Again, since another run may have recorded another key for a new version in between.
    require_known_keys(connection, check_values)


def require_known_keys(connection: Connection, check_values: Mapping[int, bytes]) -> None:
    """Compare the check values of the key versions that were used before; records nothing.

    Raises:
        TokenKeyMismatchError: a version was used with another key before.
    """
    with transaction(connection) as cursor:
        cursor.execute("SELECT key_version, check_value FROM loginpipe.token_key_checks")
        recorded = {version: bytes(check_value) for version, check_value in cursor}
    for version, check_value in check_values.items():
        if recorded.get(version, check_value) != check_value:
            raise TokenKeyMismatchError(
                f"token key version {version} is not the key that this database's tokens of version {version} were "
                "made with: restore the right key, or use another database"
            )
