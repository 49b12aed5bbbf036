"""Rejected messages, with their reasons and sealed bodies: recording them, and finding them, without the bodies."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from loginpipe.masking.sealing import Sealed
from loginpipe.postgres.connections import Connection, transaction
from loginpipe.postgres.copy import copy_rows
from loginpipe.postgres.ledger import recorded_by
from loginpipe.postgres.runs import Arrival, open_run
from loginpipe.postgres.statements import statement
from loginpipe.postgres.vault import insert_data_keys

if TYPE_CHECKING:  # the commands that list rejects start without it
    import pandas as pd

_COLUMNS = (
    "message_id", "sent_at", "sent_on", "received_at", "reasons", "fields", "sealed_body", "data_key_id", "position",
)  # fmt: skip


def record_rejects(connection: Connection, rejected: "pd.DataFrame", sealed: Sealed, arrival: Arrival) -> int:
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
            copy_rows(cursor, "incoming_rejects", _COLUMNS, _columns(rejected, sealed))
            cursor.execute(statement("insert_new_rejects"), {"run_id": arrival.run_id})
            insert_data_keys(cursor, sealed, frozenset(message_id for (message_id,) in cursor))
            recorded = recorded_by(cursor, arrival.run_id, "incoming_rejects", "sent_on")
        open_run(cursor, arrival, rejected=recorded)
    return recorded


def _columns(rejected: "pd.DataFrame", sealed: Sealed) -> list[Sequence[Any]]:
    """Return the values of `_COLUMNS`, column by column."""
    bodies = {body.subject: body for body in sealed.values}
    of_row = [bodies.get(message_id) for message_id in rejected["message_id"]]
    frame = rejected.assign(sent_on=rejected["sent_at"].dt.date)
    return [
        *(frame[name].tolist() for name in ("message_id", "sent_at", "sent_on", "received_at", "reasons", "fields")),
        *([getattr(body, name, None) for body in of_row] for name in ("ciphertext", "data_key_id", "position")),
    ]


@dataclass(frozen=True)
class RejectFilter:
    """Which rejects to look at; what is None does not narrow.

    Attributes:
        since, until: by the time they were sent, ``until`` excluded.
        replayed: also those that were replayed before.
    """

    message_id: str | None = None
    reason: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    replayed: bool = False
    most: int | None = None


@dataclass(frozen=True)
class Reject:
    """A rejected message without its body. Reasons and fields belong together, element by element."""

    message_id: str
    sent_at: datetime
    received_at: datetime
    reasons: list[str]
    fields: list[str]
    replayed_at: datetime | None

    @property
    def faults(self) -> str:
        """Each fault as ``field: reason``."""
        return ", ".join(f"{field}: {reason}" for reason, field in zip(self.reasons, self.fields, strict=True))


def find_rejects(connection: Connection, wanted: RejectFilter) -> list[Reject]:
    """Return rejects, the newest first."""
    with transaction(connection) as cursor:
        cursor.execute(statement("rejected_messages"), asdict(wanted))
        return [Reject(*row) for row in cursor]
