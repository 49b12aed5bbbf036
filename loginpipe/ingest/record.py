"""Recording the outcome of a batch: rejects, rows, ledger, vault and counts, in one transaction or not at all."""

from collections.abc import Sequence

from loginpipe.common.errors import DatabaseError
from loginpipe.ingest.process import Outcome
from loginpipe.postgres.batches import BatchRecord, Finished, finish_batches
from loginpipe.postgres.connections import Connection, transaction
from loginpipe.postgres.load import Inserted, insert_extras, insert_logins, insert_rejects
from loginpipe.postgres.statements import statement
from loginpipe.postgres.vault import insert_aliases, insert_data_keys, insert_sealed


class UserErasedError(DatabaseError):
    """A user was erased after the batch had been processed: process it again, with the new tombstone."""


def record_batch(
    connection: Connection,
    outcome: Outcome,
    *,
    queue: str,
    run_id: str | None = None,
    finished: Sequence[Finished] = (),
) -> BatchRecord:
    """Record a batch: each message once, whoever else delivers it. Recording it again changes nothing.

    Args:
        connection: with no transaction open.
        outcome: of `loginpipe.ingest.process.process_batch`.
        queue: the queue's name.
        run_id: of Dagster's run, a UUID; None outside of Dagster.
        finished: what became of the deletes of earlier batches, to be written along with it.

    Raises:
        UserErasedError: nothing was written.
        SchemaError: nothing was written; ``user_logins`` keeps rows out.
        DatabaseError: nothing was written, or the commit was not confirmed.
    """
    with transaction(connection) as cursor:
        cursor.execute(statement("begin_batch"), {"batch_id": outcome.batch_id})
        ((erasures, rejected, inserted, duplicates, days, rows, delays, delay_seconds),) = cursor.fetchall()
        if inserted is not None:
            # Committed before, and the answer was lost.
            finish_batches(cursor, finished)
            return _record(
                outcome, rejected, duplicates, Inserted(dict(zip(days, rows, strict=True)), delays, delay_seconds)
            )
        if erasures != outcome.erasures:
            raise UserErasedError("a user was erased while a batch was processed: process it again", "P0001")
        rejected = insert_rejects(cursor, outcome.rejected, outcome.bodies, outcome.batch_id)
        insert_extras(cursor, outcome.clear_extras, outcome.sealed_extras)
        new = insert_logins(cursor, outcome.logins, outcome.batch_id)
        if new.data_keys:
            insert_data_keys(cursor, outcome.sealed_extras, new.data_keys)
        sealed = insert_sealed(cursor, outcome.sealed)
        # Not what is left of the received: a message that got lost on its way here would count as a duplicate.
        duplicates = len(outcome.logins) - new.rows + len(outcome.rejected) - rejected
        record = _record(outcome, rejected, duplicates, new, sealed)
        finish_batches(cursor, finished)
        cursor.execute(
            statement("insert_batch"),
            {
                "batch_id": record.batch_id,
                "run_id": run_id,
                "queue": queue,
                "started_ms": outcome.started_at_ms,
                "received": record.received,
                "accepted": record.accepted,
                "rejected": record.rejected,
                "inserted": record.inserted,
                "duplicates": record.duplicates,
                "oldest_sent_ms": outcome.sent_ms[0],
                "newest_sent_ms": outcome.sent_ms[1],
                "days": list(record.rows_by_day),
                "rows_by_day": list(record.rows_by_day.values()),
                "delay_counts": list(record.delays),
                "delay_seconds": record.delay_seconds,
            },
        )
        insert_aliases(cursor, outcome.logins.aliases)
    return record


def _record(outcome: Outcome, rejected: int, duplicates: int, new: Inserted, sealed: int = 0) -> BatchRecord:
    return BatchRecord(
        batch_id=outcome.batch_id,
        received=outcome.received,
        accepted=len(outcome.logins),
        rejected=rejected,
        inserted=new.rows,
        duplicates=duplicates,
        rows_by_day=new.rows_by_day,
        delays=new.delays,
        delay_seconds=new.delay_seconds,
        sealed=sealed,
    )
