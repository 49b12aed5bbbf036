"""The deduplication ledger: which messages have an outcome, and which run recorded it."""

from collections.abc import Sequence

from psycopg2 import sql

from loginpipe.postgres.connections import Connection, Cursor, transaction
from loginpipe.postgres.statements import statement


def recorded_by(cursor: Cursor, run_id: str, incoming: str, sent_on: str) -> int:
    """Count the messages of a table of the session whose outcome one run recorded.

    A step that is tried again, because its commit was not heard of, finds its own rows in the ledger: they are its
    own, no duplicates.

    Args:
        cursor: in the transaction that wrote the ledger.
        run_id: the run.
        incoming: a table with a column ``message_id``.
        sent_on: its column of the UTC date, or an SQL expression for it.
    """
    cursor.execute(
        sql.SQL(
            """
            SELECT count(*)
            FROM {incoming} AS incoming
            JOIN loginpipe.ingested_messages AS ledger
                ON ledger.message_id = incoming.message_id AND ledger.sent_on = incoming.{sent_on}
            WHERE ledger.run_id = %s
            """
        ).format(incoming=sql.Identifier(incoming), sent_on=sql.Identifier(sent_on)),
        (run_id,),
    )
    ((count,),) = cursor.fetchall()
    return int(count)


def recorded(connection: Connection, message_ids: Sequence[str]) -> frozenset[str]:
    """Return the ids of those messages that have an outcome, of whatever day.

    Args:
        connection: with no transaction open.
        message_ids: by which the ledger knows them.
    """
    with transaction(connection) as cursor:
        cursor.execute(statement("recorded_messages"), (list(message_ids),))
        return frozenset(message_id for (message_id,) in cursor)
