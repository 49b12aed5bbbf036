"""The deduplication ledger: which messages have an outcome."""

from collections.abc import Sequence

from loginpipe.postgres.connections import Connection, transaction
from loginpipe.postgres.statements import statement


def recorded(connection: Connection, message_ids: Sequence[str]) -> frozenset[str]:
    """Return the ids of those messages that have an outcome, of whatever day.

    Args:
        connection: with no transaction open.
        message_ids: by which the ledger knows them.
    """
    with transaction(connection) as cursor:
        cursor.execute(statement("recorded_messages"), (list(message_ids),))
        return frozenset(message_id for (message_id,) in cursor)
