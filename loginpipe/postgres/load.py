"""The load transaction: ledger, rows, vault and books are written together, or not at all."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from loginpipe.logins.delays import DELAY_BOUNDS
from loginpipe.masking.sealing import Sealed
from loginpipe.postgres.connections import Connection, Cursor, transaction
from loginpipe.postgres.copy import copy_rows
from loginpipe.postgres.erasures import hold_off_erasures
from loginpipe.postgres.ledger import recorded_by
from loginpipe.postgres.statements import statement
from loginpipe.postgres.vault import insert_aliases, insert_sealed

_COLUMNS = (
    "message_id", "user_id", "device_type", "masked_ip", "masked_device_id", "locale", "app_version", "create_date",
)  # fmt: skip


@dataclass(frozen=True)
class LoadCounts:
    """What the load made of the accepted messages: new rows, and messages whose outcome was recorded before.

    Attributes:
        sealed: values that are new in the vault.
        delays: the new rows by their delay from sent to stored: `loginpipe.logins.delays`.
    """

    inserted: int
    duplicates: int
    sealed: int
    delays: tuple[int, ...]


def load_logins(
    connection: Connection,
    logins: pd.DataFrame,
    sealed: Sealed,
    run_id: str,
    *,
    aliases: Sequence[tuple[str, str]] = (),
    erasures: int | None = None,
) -> LoadCounts:
    """Write a batch in one transaction: every message of it is recorded once, whoever else delivers it.

    Args:
        connection: with no transaction open.
        logins: `loginpipe.masking.mask.MaskedLogins.logins`.
        sealed: what the new tokens stand for.
        run_id: a UUID; its row in ``ingest_runs`` is there.
        aliases: old token and new token of the same value, where an older token key is held too.
        erasures: `loginpipe.postgres.erasures.Erased.count`, as it was when the run left out who was erased.

    Raises:
        DatabaseError: nothing was written; also where a user was erased since.
    """
    with transaction(connection) as cursor:
        hold_off_erasures(cursor, erasures)
        cursor.execute(statement("create_incoming_logins"))
        sent_ms = logins["sent_at"].dt.as_unit("ms").astype("int64").tolist()
        columns = (range(len(logins)), sent_ms, *(logins[column].tolist() for column in _COLUMNS))
        copy_rows(cursor, "incoming_logins", ("arrival", "sent_ms", *_COLUMNS), columns)
        delays, delay_seconds = _insert_new(cursor, run_id)
        inserted = sum(delays)
        if inserted < len(logins):
            inserted = recorded_by(cursor, run_id, "incoming_logins", "create_date")
        duplicates = len(logins) - inserted
        in_vault = insert_sealed(cursor, sealed)
        cursor.execute(
            statement("count_load"),
            {
                "run_id": run_id,
                "inserted": inserted,
                "duplicates": duplicates,
                "delays": delays,
                "delay_seconds": delay_seconds,
            },
        )
        booked = cursor.fetchone()
        insert_aliases(cursor, aliases)
    return LoadCounts(inserted, duplicates, in_vault, tuple(booked[0] if booked else delays))


def _insert_new(cursor: Cursor, run_id: str) -> tuple[list[int], float]:
    """Insert what the ledger does not know; return the new rows by their delay, and the sum of these in seconds."""
    cursor.execute(statement("insert_new_logins"), {"run_id": run_id, "bounds": list(DELAY_BOUNDS)})
    delays, total = [0] * (len(DELAY_BOUNDS) + 1), 0.0
    for bucket, logins, seconds in cursor:
        delays[bucket] = logins
        total += seconds
    return delays, total
