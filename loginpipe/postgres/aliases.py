"""Aliases of tokens: which tokens, of different versions of the token key, stand for one value."""

from collections.abc import Sequence

from loginpipe.postgres.connections import Cursor
from loginpipe.postgres.copy import copy_rows
from loginpipe.postgres.statements import statement

_LOCK = int.from_bytes(b"lp-alias")  # any number that nobody else locks


def insert_aliases(cursor: Cursor, aliases: Sequence[tuple[str, str]]) -> None:
    """Insert aliases that are not there yet, and lead every older token of the same value to the newest one.

    Args:
        cursor: at the end of its transaction: nobody else inserts aliases until that has ended, since of two that do
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
    cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
    cursor.execute(statement("insert_new_aliases"))
    cursor.execute(statement("compress_aliases"))
