"""Write a batch, statement by statement, in the one transaction of `loginpipe.ingest.record`.

Ledger and rows are written together, so a message has one outcome, even if others record it too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import repeat
from typing import Any, NamedTuple
from uuid import UUID

from loginpipe.common.errors import SchemaError
from loginpipe.common.logins_table import COLUMN_NAMES, logins_table
from loginpipe.logins.delays import DELAY_BOUNDS
from loginpipe.logins.splitting import Reject
from loginpipe.masking.mask import MaskedLogins, utc_dates
from loginpipe.masking.sealing import Sealed
from loginpipe.postgres.connections import Connection, Cursor, fetch
from loginpipe.postgres.copy import copy_rows
from loginpipe.postgres.statements import statement
from loginpipe.postgres.vault import insert_data_keys

_LOGIN_COLUMNS = ("message_id", "sent_ms", *COLUMN_NAMES)
_REJECT_COLUMNS = (
    "message_id", "sent_ms", "sent_on", "received_ms", "reasons", "fields", "sealed_body", "data_key_id", "position",
)  # fmt: skip
_EXTRA_COLUMNS = ("message_id", "extras", "sealed_extras", "data_key_id", "position")


class LockHolder(NamedTuple):
    """A session that loads wait for, by the process id of the server.

    ``table`` is the one that it locks against writers; None if a load waits for one of its rows.
    """

    pid: int
    role: str
    application: str
    table: str | None


def lock_holders(connection: Connection) -> frozenset[LockHolder]:
    """Find the sessions that a load waits for now, or would wait for."""
    return frozenset(LockHolder(*row) for row in fetch(connection, statement("lock_holders")))


@dataclass(frozen=True)
class Inserted:
    """The rows that a batch added.

    Attributes:
        rows_by_day: UTC date → rows.
        delays, delay_seconds: rows by their delay from sent to stored, as in `loginpipe.logins.delays`, and its sum.
        data_keys: the data keys that sealed their extras.
    """

    rows_by_day: dict[date, int]
    delays: list[int]
    delay_seconds: float
    data_keys: frozenset[UUID] = frozenset()

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return sum(self.delays)


def insert_logins(cursor: Cursor, logins: MaskedLogins, batch_id: str) -> Inserted:
    """Insert the masked logins whose messages are new to the ledger, with their extras from `insert_extras`.

    Raises:
        SchemaError: a trigger or rule of ``user_logins`` kept rows out of it.
    """
    found = Inserted({}, [0] * (len(DELAY_BOUNDS) + 1), 0.0)
    if not len(logins):
        return found
    columns: list[Sequence[Any]] = [range(len(logins)), *(logins.columns[name] for name in _LOGIN_COLUMNS)]
    copy_rows(cursor, "incoming_logins", ("arrival", *_LOGIN_COLUMNS), columns)
    cursor.execute(statement("insert_new_logins"), {"batch_id": batch_id, "bounds": list(DELAY_BOUNDS)})
    new, stored, total = found.delays, 0, 0.0
    data_keys: list[str] | None = None
    for bucket, day, rows, seconds, all_stored, keys_of_extras in cursor:
        new[bucket] += rows
        found.rows_by_day[day] = found.rows_by_day.get(day, 0) + rows
        total += seconds
        stored, data_keys = all_stored, keys_of_extras
    if stored != sum(new):
        raise SchemaError(
            f"user_logins took {stored:,} of {sum(new):,} rows: a trigger or a rule keeps rows out of it; nothing was "
            f"recorded, see them with \\d {logins_table()} in psql and remove what does it"
        )
    return Inserted(found.rows_by_day, new, total, frozenset(map(UUID, data_keys or ())))


def insert_extras(cursor: Cursor, clear: Mapping[str, str], sealed: Sealed) -> None:
    """Stage the extras of logins, for `insert_logins` to insert those of new logins.

    ``clear`` has the fields that are stored in clear, as a JSON object, and ``sealed`` the others; both by message id.
    """
    if not clear and not sealed:
        return
    blocks = sealed.blocks
    with_rest = [message_id for block in blocks for message_id in block.subjects]
    columns: list[Sequence[Any]] = [
        with_rest,
        [clear.get(message_id) for message_id in with_rest],
        [ciphertext for block in blocks for ciphertext in block.ciphertexts],
        [key_id for block in blocks for key_id in repeat(str(block.data_key_id), len(block.subjects))],
        [position for block in blocks for position in block.positions],
    ]
    copy_rows(cursor, "incoming_extras", _EXTRA_COLUMNS, columns)
    without_rest = clear.keys() - set(with_rest)
    if without_rest:
        of_them = [list(without_rest), [clear[message_id] for message_id in without_rest]]
        copy_rows(cursor, "incoming_extras", _EXTRA_COLUMNS[:2], of_them)


def insert_rejects(cursor: Cursor, rejected: Sequence[Reject], bodies: Sealed, batch_id: str) -> int:
    """Insert the rejected messages that are new to the ledger; return how many.

    ``bodies`` are the sealed bodies by message id. They are empty if sealing is off, and then no body is kept.
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
    # A writer may not read the data keys of values from the database.
    used = {block.data_key_id for block in bodies.blocks if not new.isdisjoint(block.subjects)}
    insert_data_keys(cursor, bodies, used)
    return len(new)
