"""What a batch writes, statement by statement, in the one transaction of `loginpipe.ingest.record`.

Ledger and rows are written together: a message has one outcome, whoever else delivers it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from loginpipe.common.errors import SchemaError
from loginpipe.common.logins_table import logins_table
from loginpipe.logins.delays import DELAY_BOUNDS
from loginpipe.logins.splitting import Reject
from loginpipe.logins.user_logins import COLUMN_NAMES
from loginpipe.masking.mask import MaskedLogins, utc_dates
from loginpipe.masking.sealing import Sealed
from loginpipe.postgres.connections import Cursor
from loginpipe.postgres.copy import copy_rows
from loginpipe.postgres.statements import statement
from loginpipe.postgres.vault import insert_data_keys

_LOGIN_COLUMNS = ("message_id", "sent_ms", *COLUMN_NAMES)
_REJECT_COLUMNS = (
    "message_id", "sent_ms", "sent_on", "received_ms", "reasons", "fields", "sealed_body", "data_key_id", "position",
)  # fmt: skip


@dataclass(frozen=True)
class Inserted:
    """The rows that a batch added.

    Attributes:
        rows_by_day: UTC date → rows.
        delays: rows by their delay from sent to stored: `loginpipe.logins.delays`.
        delay_seconds: the sum of these delays.
    """

    rows_by_day: dict[date, int]
    delays: list[int]
    delay_seconds: float

    @property
    def rows(self) -> int:
        """How many."""
        return sum(self.delays)


def no_rows() -> Inserted:
    """Return what a batch without accepted logins adds."""
    return Inserted({}, [0] * (len(DELAY_BOUNDS) + 1), 0.0)


def insert_logins(cursor: Cursor, logins: MaskedLogins, batch_id: str) -> Inserted:
    """Insert those masked logins whose messages the ledger does not know.

    Raises:
        SchemaError: a trigger or rule of ``user_logins`` kept rows out of it.
    """
    found = no_rows()
    if not len(logins):
        return found
    columns: list[Sequence[Any]] = [range(len(logins)), *(logins.columns[name] for name in _LOGIN_COLUMNS)]
    copy_rows(cursor, "incoming_logins", ("arrival", *_LOGIN_COLUMNS), columns)
    cursor.execute(statement("insert_new_logins"), {"batch_id": batch_id, "bounds": list(DELAY_BOUNDS)})
    new, stored, total = found.delays, 0, 0.0
    for bucket, day, rows, seconds, all_stored in cursor:
        new[bucket] += rows
        found.rows_by_day[day] = found.rows_by_day.get(day, 0) + rows
        total += seconds
        stored = all_stored
    if stored != sum(new):
        raise SchemaError(
            f"user_logins took {stored:,} of {sum(new):,} rows: a trigger or a rule keeps rows out of it; nothing was "
            f"recorded, see them with \\d {logins_table()} in psql and remove what does it"
        )
    return Inserted(found.rows_by_day, new, total)


def insert_rejects(cursor: Cursor, rejected: Sequence[Reject], bodies: Sealed, batch_id: str) -> int:
    """Insert those rejected messages that the ledger does not know; return how many.

    Args:
        cursor: in the transaction of the batch.
        rejected: the messages.
        bodies: the body of each, by message id; empty where sealing is off, and then no body is kept.
        batch_id: the batch.
    """
    if not rejected:
        return 0
    of_message = {body.subject: body for body in bodies.values}
    sealed = [of_message.get(reject.message_id) for reject in rejected]
    columns: list[Sequence[Any]] = [
        [reject.message_id for reject in rejected],
        [reject.sent_ms for reject in rejected],
        utc_dates([reject.sent_ms for reject in rejected]),
        [reject.received_ms for reject in rejected],
        [reject.reasons for reject in rejected],
        [reject.fields for reject in rejected],
        *([getattr(body, name, None) for body in sealed] for name in ("ciphertext", "data_key_id", "position")),
    ]
    copy_rows(cursor, "incoming_rejects", _REJECT_COLUMNS, columns)
    cursor.execute(statement("insert_new_rejects"), {"batch_id": batch_id})
    new = frozenset(message_id for (message_id,) in cursor)
    insert_data_keys(cursor, bodies, new)
    return len(new)
