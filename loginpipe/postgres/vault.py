"""The vault as its writer sees it: known tokens, new sealed values, aliases. It reads tokens there and nothing else."""

from collections.abc import Collection, Sequence
from itertools import chain, repeat
from uuid import UUID

from psycopg2.extras import execute_values

from loginpipe.masking.sealing import Sealed
from loginpipe.postgres.connections import Connection, Cursor, transaction
from loginpipe.postgres.copy import copy_rows
from loginpipe.postgres.partitions import take_turn
from loginpipe.postgres.statements import statement

# Tokens: a query holds a megabyte of them, and is in memory several times over.
_ASKED_AT_ONCE = 20_000


def known_tokens(connection: Connection, tokens: Sequence[str]) -> frozenset[str]:
    """Return those of the tokens whose values are sealed already."""
    known: set[str] = set()
    with transaction(connection) as cursor:
        for start in range(0, len(tokens), _ASKED_AT_ONCE):
            # As one text: an array of thousands of elements takes longer to write and to parse than to look up.
            asked = " ".join(tokens[start : start + _ASKED_AT_ONCE])
            cursor.execute(
                "SELECT token FROM vault.sealed_values WHERE token = ANY (string_to_array(%s, ' '))", (asked,)
            )
            known.update(chain.from_iterable(cursor.fetchall()))
    return frozenset(known)


def unopenable_values(connection: Connection) -> int:
    """Count the sealed values that nothing can open: without a data key, or shorter than any value. Reads the vault."""
    with transaction(connection) as cursor:
        cursor.execute("SELECT vault.unopenable_values()")
        ((count,),) = cursor.fetchall()
    return int(count)


def insert_sealed(cursor: Cursor, sealed: Sealed) -> int:
    """Insert sealed values with their data keys; a token that another run sealed meanwhile stays as it is.

    Returns:
        How many values are new.
    """
    if not sealed:
        return 0
    cursor.execute(statement("create_incoming_sealed"))
    cursor.execute(statement("create_incoming_data_keys"))
    blocks = sealed.blocks
    tokens = [token for block in blocks for token in block.subjects]
    copy_rows(
        cursor,
        "incoming_sealed",
        ("token", "field", "data_key_id", "position", "ciphertext"),
        (
            tokens,
            [name for block in blocks for name in repeat(block.field_name, len(block.subjects))],
            [key_id for block in blocks for key_id in repeat(str(block.data_key_id), len(block.subjects))],
            [position for block in blocks for position in block.positions],
            [ciphertext for block in blocks for ciphertext in block.ciphertexts],
        ),
    )
    copy_rows(
        cursor,
        "incoming_data_keys",
        ("data_key_id", "recipient", "wrapped_key"),
        zip(*((str(key.data_key_id), key.recipient, key.wrapped_key) for key in sealed.data_keys), strict=True),
    )
    cursor.execute(statement("insert_new_sealed"))
    ((new,),) = cursor.fetchall()
    return int(new)


def data_keys_of(sealed: Sealed, new: frozenset[str]) -> frozenset[UUID]:
    """Return which data keys the values of these subjects use. The database is not asked: it would not tell us."""
    return frozenset(block.data_key_id for block in sealed.blocks if not new.isdisjoint(block.subjects))


def insert_data_keys(cursor: Cursor, sealed: Sealed, used: Collection[UUID]) -> None:
    """Insert those wrapped data keys that a new value uses: none where everything was there already.

    Args:
        cursor: in the transaction that inserted the values.
        sealed: the values with their data keys.
        used: the data keys of the values that were inserted.
    """
    execute_values(
        cursor,
        "INSERT INTO vault.data_keys (data_key_id, recipient, wrapped_key) VALUES %s",
        [(str(key.data_key_id), key.recipient, key.wrapped_key) for key in sealed.data_keys if key.data_key_id in used],
        template="(%s::uuid, %s, %s)",
        # All at once: the recipients of a key come together, or are refused.
        page_size=max(len(sealed.data_keys), 1),
    )


def verify_aliases(cursor: Cursor, aliases: Sequence[tuple[str, str]]) -> None:
    """Write aliases whose value was opened, whatever is there, and mark them as verified.

    Args:
        cursor: of a role that is custodian and writer, at the end of its transaction, as for `insert_aliases`.
        aliases: old token, new token of the current version; each old one once.
    """
    if not aliases:
        return
    cursor.execute(statement("create_incoming_aliases"))
    copy_rows(cursor, "incoming_aliases", ("old_token", "new_token"), zip(*aliases, strict=True))
    take_turn(cursor, "aliases")
    cursor.execute(statement("correct_aliases"))
    cursor.execute(statement("mark_aliases_verified"))


def insert_aliases(cursor: Cursor, aliases: Sequence[tuple[str, str]]) -> None:
    """Insert aliases that are not there yet, and lead every older token of the same value to the newest one.

    Args:
        cursor: at the end of its transaction: no one else inserts aliases until that has ended, since of two that do
            neither would see the token that the other replaces.
        aliases: old token, new token; each old one once.
    """
    if not aliases:
        return
    cursor.execute(statement("create_incoming_aliases"))
    copy_rows(cursor, "incoming_aliases", ("old_token", "new_token"), zip(*aliases, strict=True))
    cursor.execute(statement("drop_known_aliases"))
    if cursor.rowcount == len(aliases):
        return
    take_turn(cursor, "aliases")
    cursor.execute(statement("insert_new_aliases"))
    cursor.execute(statement("compress_aliases"))
