"""Record batches: rejects, rows, ledger, vault and counts of a batch in one transaction or not at all.

Runs and AWS Lambda use the same `Recorder`. It also splits a batch if the database refuses one of its rows.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from loginpipe.common.errors import DatabaseError
from loginpipe.ingest.process import Masking, Outcome, process_batch, reject_message
from loginpipe.logins.messages import Message
from loginpipe.logins.parsing import Envelope
from loginpipe.logins.rejects import Reason
from loginpipe.postgres.batches import BatchRecord, Finished, finish_batches
from loginpipe.postgres.connections import Connection, transaction
from loginpipe.postgres.erasures import Erased, read_erased
from loginpipe.postgres.load import Inserted, insert_extras, insert_logins, insert_rejects
from loginpipe.postgres.session import Session
from loginpipe.postgres.statements import statement
from loginpipe.postgres.vault import insert_aliases, insert_data_keys, insert_sealed, known_tokens


@dataclass(frozen=True)
class Recorded:
    """A batch whose outcome is committed, and its messages, which may now be deleted."""

    messages: Sequence[Message] = field(repr=False)
    outcome: Outcome
    record: BatchRecord


class UserErasedError(DatabaseError):
    """A user was erased after the batch was processed: process it again, with the new tombstone."""


def record_batch(
    connection: Connection,
    outcome: Outcome,
    *,
    queue: str,
    run_id: str | None = None,
    finished: Sequence[Finished] = (),
) -> BatchRecord:
    """Record a batch: each message once, even if others record it too. Recording it again changes nothing.

    The connection has no transaction open. ``run_id`` is the UUID of Dagster's run, or None outside of Dagster.
    ``finished`` are results of the deletes of earlier batches, to write in the same transaction.

    Raises:
        UserErasedError: nothing was written.
        SchemaError: nothing was written; ``user_logins`` does not accept rows.
        DatabaseError: nothing was written, or the commit was not confirmed.
    """
    with transaction(connection) as cursor:
        cursor.execute(statement("begin_batch"), {"batch_id": outcome.batch_id})
        ((erasures, rejected, inserted, duplicates, days, rows, delays, delay_seconds),) = cursor.fetchall()
        if inserted is not None:
            # It was committed before, but the response was lost.
            finish_batches(cursor, finished)
            earlier = Inserted(dict(zip(days, rows, strict=True)), delays, delay_seconds)
            return _record(outcome, rejected, duplicates, earlier)
        if erasures != outcome.erasures:
            raise UserErasedError("a user was erased while a batch was processed: process it again", "P0001")
        rejected = insert_rejects(cursor, outcome.rejected, outcome.bodies, outcome.batch_id)
        insert_extras(cursor, outcome.clear_extras, outcome.sealed_extras)
        new = insert_logins(cursor, outcome.logins, outcome.batch_id)
        if new.data_keys:
            insert_data_keys(cursor, outcome.sealed_extras, new.data_keys)
        sealed = insert_sealed(cursor, outcome.sealed)
        # Not computed as the rest of the received, or a message lost on its way here would count as a duplicate.
        duplicates = len(outcome.logins) - new.rows + len(outcome.rejected) - rejected
        record = _record(outcome, rejected, duplicates, new, sealed)
        finish_batches(cursor, finished)
        columns = {
            **vars(record),
            "run_id": run_id,
            "queue": queue,
            "started_ms": outcome.started_at_ms,
            "oldest_sent_ms": outcome.sent_ms[0],
            "newest_sent_ms": outcome.sent_ms[1],
            "days": list(record.rows_by_day),
            "rows_by_day": list(record.rows_by_day.values()),
            "delay_counts": list(record.delays),
        }
        cursor.execute(statement("insert_batch"), columns)
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


@dataclass(eq=False, repr=False, kw_only=True)
class Recorder:
    """Processes and records batches on one database session, for one queue. It reads first which users were erased.

    Attributes:
        run_id: the UUID of Dagster's run; None outside of Dagster.
        before_recording: called with each outcome; if it raises, the outcome is not recorded.
    """

    session: Session = field(kw_only=False)
    masking: Masking = field(kw_only=False)
    queue: str
    run_id: str | None = None
    envelope: Envelope = "none"
    before_recording: Callable[[Outcome], None] = lambda _: None

    def __post_init__(self) -> None:
        self._erased: Erased = self.session.run(read_erased)
        self._finished: list[Finished] = []

    def record(self, messages: Sequence[Message]) -> Iterator[Recorded]:
        """Process and record messages (at least one), and yield each resulting batch as soon as it is committed.

        Their ids are distinct. They become one batch unless the database refuses a row. Then the batch is split until
        that row is alone, and its message is rejected.

        Raises:
            DatabaseError: what was not yielded is not recorded, or its commit was not confirmed.
            ClearValueError: as `process_batch`.
        """
        try:
            yield self._recorded(messages, partial(process_batch, messages, self.masking, envelope=self.envelope))
        except DatabaseError as error:
            if not error.is_about_a_row:
                raise
            refused = error.about or "row"
        else:
            return
        if len(messages) == 1:
            reject = partial(reject_message, messages[0], Reason.REFUSED_BY_DATABASE, refused, self.masking)
            yield self._recorded(messages, lambda erased, _: reject(erased))
            return
        half = len(messages) // 2
        yield from self.record(messages[:half])
        yield from self.record(messages[half:])

    def finish(self, finished: Sequence[Finished]) -> None:
        """Keep the results of deletes, to write them with the next batch."""
        self._finished += finished

    def flush(self, *, try_again: bool = True) -> None:
        """Write the results from `finish` that no batch has written, or raise a `DatabaseError`.

        Without ``try_again`` this does not wait for an unavailable database: a run that failed has already waited.
        """
        if self._finished:
            if not try_again:
                self.session.give_up = lambda: True
            self.session.run(self._write_finished)
            self._finished.clear()

    def _recorded(self, messages: Sequence[Message], process: "Callable[..., Outcome]") -> Recorded:
        while True:
            outcome = process(self._erased, self._known_tokens)
            self.before_recording(outcome)
            record = partial(record_batch, outcome=outcome, queue=self.queue, run_id=self.run_id)
            try:
                recorded = self.session.run(partial(record, finished=self._finished))
            except UserErasedError:
                self._erased = self.session.run(read_erased)
                continue
            self._finished = []
            return Recorded(_with_outcome(messages, outcome), outcome, recorded)

    def _known_tokens(self, tokens: Sequence[str]) -> frozenset[str]:
        return self.session.run(partial(known_tokens, tokens=tokens))

    def _write_finished(self, connection: Any) -> None:
        with transaction(connection) as cursor:
            finish_batches(cursor, self._finished)


def _with_outcome(messages: Sequence[Message], outcome: Outcome) -> Sequence[Message]:
    """Return the messages that are in an outcome; one that was lost on the way must not be deleted."""
    if len(outcome.logins) + len(outcome.rejected) == len(messages):
        return messages
    known = {*outcome.logins.columns["message_id"], *(reject.message_id for reject in outcome.rejected)}
    return [message for message in messages if message.message_id in known]
