"""The vault as its writer sees it: which tokens it knows, and new sealed values. It reads nothing else there."""

from collections.abc import Collection, Iterable, Sequence

from psycopg2.extras import execute_values

from loginpipe.masking.sealing import Sealed, WrappedDataKey
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
    new = [key for (key,) in cursor]
    insert_data_keys(cursor, sealed.data_keys, used=set(new))
    return len(new)


def insert_data_keys(cursor: Cursor, data_keys: Iterable[WrappedDataKey], used: Collection[str]) -> None:
    """Insert those wrapped data keys, by id, that a new value uses: none where everything was there already."""
    execute_values(
        cursor,
        "INSERT INTO vault.data_keys (data_key_id, recipient, wrapped_key) VALUES %s",
        [(str(k.data_key_id), k.recipient, k.wrapped_key) for k in data_keys if str(k.data_key_id) in used],
        template="(%s::uuid, %s, %s)",
    )
