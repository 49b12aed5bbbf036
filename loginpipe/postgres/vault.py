"""Write to the vault: known tokens, new sealed values, aliases. Reads only tokens and counts there."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from uuid import UUID

from psycopg2.extras import execute_values

from loginpipe.masking.sealing import Sealed
from loginpipe.postgres.connections import Connection, Cursor, fetch, rows_of, transaction
from loginpipe.postgres.copy import copy_rows
from loginpipe.postgres.partitions import take_turn
from loginpipe.postgres.statements import statement

# In tokens. A query holds a megabyte of them, in memory several times.
_ASKED_AT_ONCE = 20_000


def known_tokens(connection: Connection, tokens: Sequence[str]) -> frozenset[str]:
    """Return those of the tokens whose values are already sealed."""
    known: set[str] = set()
    with transaction(connection) as cursor:
        for start in range(0, len(tokens), _ASKED_AT_ONCE):
            # As one text, because writing and parsing an array of thousands of elements takes longer than the lookup.
            asked = " ".join(tokens[start : start + _ASKED_AT_ONCE])
            query = "SELECT token FROM vault.sealed_values WHERE token = ANY (string_to_array(%s, ' '))"
            known.update(chain.from_iterable(rows_of(cursor, query, (asked,))))
    return frozenset(known)


def unopenable_values(connection: Connection) -> int:
    """Count the sealed values that cannot be opened: without a data key, or shorter than any value. Reads the vault."""
    ((count,),) = fetch(connection, "SELECT vault.unopenable_values()")
    return int(count)


@dataclass(frozen=True)
class VaultTotals:
    """Postgres' estimate of the values in the vault; version of the token key → Unix time of its first use."""

    sealed_values: int
    key_versions: Mapping[int, float]


def read_vault(connection: Connection) -> VaultTotals:
    """Read the totals of vault and keys."""
    estimate = "SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = 'vault.sealed_values'::regclass"
    first_uses = "SELECT key_version, extract(epoch FROM created_at)::float8 FROM loginpipe.token_key_checks"
    ((sealed_values,),) = fetch(connection, estimate)
    return VaultTotals(sealed_values, dict(fetch(connection, first_uses)))


def insert_sealed(cursor: Cursor, sealed: Sealed) -> int:
    """Insert sealed values with their data keys; return how many are new. Tokens already sealed stay unchanged."""
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
    ((new,),) = rows_of(cursor, statement("insert_new_sealed"))
    return int(new)


def insert_data_keys(cursor: Cursor, sealed: Sealed, used: Collection[UUID]) -> None:
    """Insert the wrapped data keys that new values use: none if all values existed.

    Call it in the transaction that inserted the values. ``used`` are the data keys of the inserted ones.
    """
    execute_values(
        cursor,
        "INSERT INTO vault.data_keys (data_key_id, recipient, wrapped_key) VALUES %s",
        [(str(key.data_key_id), key.recipient, key.wrapped_key) for key in sealed.data_keys if key.data_key_id in used],
        template="(%s::uuid, %s, %s)",
        # In one statement, because the database refuses further recipients of an existing data key.
        page_size=max(len(sealed.data_keys), 1),
    )


def verify_aliases(cursor: Cursor, aliases: Sequence[tuple[str, str]]) -> None:
    """Write aliases whose value was opened, replace existing ones, and mark them as verified.

    As `insert_aliases`, for a role that is custodian and writer. The new tokens are of the current version.
    """
    if not aliases:
        return
    _copy_aliases(cursor, aliases)
    take_turn(cursor, "aliases")
    cursor.execute(statement("correct_aliases"))
    cursor.execute(statement("mark_aliases_verified"))


def insert_aliases(cursor: Cursor, aliases: Sequence[tuple[str, str]]) -> None:
    """Insert missing aliases (old token, new token), and let every older token of a value lead to the newest one.

    Each old token must occur once. Call it at the end of the transaction, because from here on it blocks other inserts
    of aliases: two at once would not see the token that the other replaces.
    """
    if not aliases:
        return
    _copy_aliases(cursor, aliases)
    cursor.execute(statement("drop_known_aliases"))
    if cursor.rowcount == len(aliases):
        return
    take_turn(cursor, "aliases")
    cursor.execute(statement("insert_new_aliases"))
    cursor.execute(statement("compress_aliases"))


def _copy_aliases(cursor: Cursor, aliases: Sequence[tuple[str, str]]) -> None:
    cursor.execute(statement("create_incoming_aliases"))
    copy_rows(cursor, "incoming_aliases", ("old_token", "new_token"), zip(*aliases, strict=True))
