"""Rejected messages, with their reasons and sealed bodies."""

from collections.abc import Iterator
from typing import Any, Final

import pandas as pd

from loginpipe.masking.sealing import Sealed
from loginpipe.postgres.connections import Connection, transaction
from loginpipe.postgres.copy import copy_rows
from loginpipe.postgres.ledger import recorded_by
from loginpipe.postgres.runs import Arrival, open_run
from loginpipe.postgres.statements import statement
from loginpipe.postgres.vault import insert_data_keys

_COLUMNS: Final = (
    "message_id", "sent_at", "sent_on", "received_at", "reasons", "fields", "sealed_body", "data_key_id", "position",
)  # fmt: skip


def record_rejects(connection: Connection, rejected: pd.DataFrame, sealed: Sealed, arrival: Arrival) -> int:
    """Record the rejects of a run and open its books, in one transaction.

    Args:
        connection: with no transaction open.
        rejected: `loginpipe.logins.splitting.SplitBatch.rejected`.
        sealed: the body of each, by message id; empty where sealing is off, and then no body is kept.
        arrival: what the run received.

    Returns:
        How many rejects this run recorded: those that come again, because their delete failed, are not among them.

    Raises:
        DatabaseError: nothing was recorded.
    """
    with transaction(connection) as cursor:
        recorded = 0
        if len(rejected):
            cursor.execute(statement("create_incoming_rejects"))
            copy_rows(cursor, "incoming_rejects", _COLUMNS, _rows(rejected, sealed))
            cursor.execute(statement("insert_new_rejects"), {"run_id": arrival.run_id})
            insert_data_keys(cursor, sealed, {message_id for (message_id,) in cursor})
            recorded = recorded_by(cursor, arrival.run_id, "incoming_rejects", "sent_on")
        open_run(cursor, arrival, rejected=recorded)
    return recorded


def _rows(rejected: pd.DataFrame, sealed: Sealed) -> Iterator[tuple[Any, ...]]:
    bodies = {value.subject: value for value in sealed.values}
    kept = rejected.assign(sent_on=rejected["sent_at"].dt.date)[
        ["sent_at", "sent_on", "received_at", "reasons", "fields"]
    ]
    for message_id, row in zip(rejected["message_id"], kept.itertuples(index=False, name=None), strict=True):
        body = bodies.get(message_id)
        yield (message_id, *row, *((body.ciphertext, body.data_key_id, body.position) if body else (None, None, None)))
