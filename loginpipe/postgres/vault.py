"""The vault as its writer sees it: which tokens it knows, and new sealed values. It reads nothing else there."""

from collections.abc import Collection, Sequence

from psycopg2.extras import execute_values

from loginpipe.masking.sealing import Sealed
from loginpipe.postgres.connections import Connection, Cursor, transaction
from loginpipe.postgres.copy import copy_rows
from loginpipe.postgres.statements import statement


def known_tokens(connection: Connection, tokens: Sequence[str]) -> frozenset[str]:
    """Return those of the tokens whose values are sealed already."""
    with transaction(connection) as cursor:
        cursor.execute("SELECT token FROM vault.sealed_values WHERE token = ANY (%s)", (list(tokens),))
        return frozenset(token for (token,) in cursor)


def insert_sealed(cursor: Cursor, sealed: Sealed) -> int:
    """Insert sealed values with their data keys; a token that another run sealed meanwhile stays as it is.

    Returns:
        How many values are new.
    """
    if not sealed.values:
        return 0
    cursor.execute(statement("create_incoming_sealed"))
    copy_rows(
        cursor,
        "incoming_sealed",
        ("token", "field", "data_key_id", "position", "ciphertext"),
        ((v.subject, v.field_name, v.data_key_id, v.position, v.ciphertext) for v in sealed.values),
    )
    cursor.execute(statement("insert_new_sealed"))
    new = {token for (token,) in cursor}
    insert_data_keys(cursor, sealed, new)
    return len(new)


def insert_data_keys(cursor: Cursor, sealed: Sealed, new: Collection[str]) -> None:
    """Insert those wrapped data keys that a new value uses: none where everything was there already.

    Args:
        cursor: in the transaction that inserted the values.
        sealed: the values with their data keys.
        new: the subjects that were inserted. The database is not asked which keys these use: it would not tell us.
    """
    used = {value.data_key_id for value in sealed.values if value.subject in new}
    execute_values(
        cursor,
        "INSERT INTO vault.data_keys (data_key_id, recipient, wrapped_key) VALUES %s",
        [(str(key.data_key_id), key.recipient, key.wrapped_key) for key in sealed.data_keys if key.data_key_id in used],
        template="(%s::uuid, %s, %s)",
    )
