"""The consumer loop: batch after batch from the queue into the table, until the queue is drained or the time is up.

While one batch is processed and recorded, the next one is received and the messages of the one before are deleted.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import Any

from loginpipe.common.errors import DatabaseError
from loginpipe.ingest.brake import Brake
from loginpipe.ingest.process import Masking, Outcome, process_batch, reject_message
from loginpipe.ingest.record import UserErasedError, record_batch
from loginpipe.logins.messages import Message
from loginpipe.logins.parsing import Envelope
from loginpipe.logins.rejects import Reason
from loginpipe.postgres.batches import BatchRecord, Finished, finish_batches
from loginpipe.postgres.connections import transaction
from loginpipe.postgres.erasures import Erased, read_erased
from loginpipe.postgres.session import Session
from loginpipe.postgres.vault import known_tokens
from loginpipe.sqs.deletion import Deleter, Deletion
from loginpipe.sqs.leases import LeaseKeeper
from loginpipe.sqs.receiver import Received, Receiver

# How soon a request to stop, or the end of a run's time, is noticed while nothing arrives.
_CHECK_SECONDS = 0.25

# How long a run that was asked to stop, or failed, waits for deletes: orchestrators kill after 30 seconds.
_STOP_SECONDS = 5.0

# Deletes that wait for SQS leave the run, whose outcome is committed, the time to succeed.
_MAX_DELETE_SECONDS = 600.0


@dataclass(frozen=True)
class Recorded:
    """A batch whose outcome is committed, and the messages that may be deleted for that."""

    messages: Sequence[Message] = field(repr=False)
    outcome: Outcome
    record: BatchRecord


@dataclass(frozen=True)
class Limits:
    """When a run ends by itself: after so many seconds without messages, and after so many in all."""

    idle_seconds: float
    run_seconds: float


class StopSignals:
    """Takes SIGTERM and SIGINT for as long as a run works: the first asks it to stop, the next one goes through.

    Outside of the main thread, which alone is given signals, nothing is taken.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._taken: int | None = None

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._take) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        """Put the handlers back that were there before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def requested(self) -> bool:
        """Whether the run has been asked to stop."""
        return self._taken is not None

    def pass_on(self) -> None:
        """Give the signal that was taken to whoever handled it before. Call it after the context."""
        if self._taken is not None:
            signal.raise_signal(self._taken)

    def _take(self, number: int, frame: FrameType | None) -> None:
        # Nothing here may take a lock: the main thread may hold it.
        if self._taken is None:
            self._taken = number
        elif callable(before := self._before.get(number)):
            before(number, frame)


class Recorder:
    """Processes and records batches on one database session, for one queue."""

    def __init__(
        self,
        session: Session,
        masking: Masking,
        *,
        queue: str,
        run_id: str | None = None,
        envelope: Envelope = "none",
    ) -> None:
        self._session = session
        self._masking = masking
        self._queue = queue
        self._run_id = run_id
        self._envelope = envelope
        self._erased: Erased = session.run(read_erased)
        self._finished: list[Finished] = []

    def record(self, messages: Sequence[Message]) -> Iterator[Recorded]:
        """Process and record messages, and yield each batch that they became as soon as it is committed.

        They become one batch, unless the database refuses a row: then the batch is split until that row stands alone,
        which is rejected.

        Args:
            messages: at least one; their ids are distinct.

        Raises:
            DatabaseError: what was not yielded is not recorded, or its commit was not confirmed.
            ClearValueError: as `process_batch`.
        """
        try:
            yield self._recorded(messages, partial(process_batch, messages, self._masking, envelope=self._envelope))
        except DatabaseError as error:
            if not error.is_about_a_row:
                raise
            refused = error.about or "row"
        else:
            return
        if len(messages) == 1:
            yield self._recorded(messages, partial(self._rejected, messages[0], refused))
            return
        half = len(messages) // 2
        yield from self.record(messages[:half])
        yield from self.record(messages[half:])

    def finish(self, finished: Sequence[Finished]) -> None:
        """Keep what became of deletes, to be written with the next batch."""
        self._finished += finished

    def flush(self, *, try_again: bool = True) -> None:
        """Write what `finish` was given and no batch has written.

        Args:
            try_again: whether to wait for a database that is unavailable: a run that failed has waited already.

        Raises:
            DatabaseError: it was not written.
        """
        if self._finished:
            if not try_again:
                self._session.give_up = lambda: True
            self._session.run(self._write_finished)
            self._finished.clear()

    def _recorded(self, messages: Sequence[Message], process: "Callable[..., Outcome]") -> Recorded:
        while True:
            outcome = process(self._erased, self._known_tokens)
            work = partial(
                record_batch, outcome=outcome, queue=self._queue, run_id=self._run_id, finished=self._finished
            )
            try:
                record = self._session.run(work)
            except UserErasedError:
                self._erased = self._session.run(read_erased)
                continue
            self._finished = []
            return Recorded(_with_outcome(messages, outcome), outcome, record)

    def _rejected(self, message: Message, refused: str, erased: Erased, _: object) -> Outcome:
        return reject_message(message, Reason.REFUSED_BY_DATABASE, refused, self._masking, erased)

    def _known_tokens(self, tokens: Sequence[str]) -> frozenset[str]:
        return self._session.run(partial(known_tokens, tokens=tokens))

    def _write_finished(self, connection: Any) -> None:
        with transaction(connection) as cursor:
            finish_batches(cursor, self._finished)


def _with_outcome(messages: Sequence[Message], outcome: Outcome) -> Sequence[Message]:
    """Return the messages that are in an outcome: one that got lost on the way there must not be deleted."""
    if len(outcome.logins) + len(outcome.rejected) == len(messages):
        return messages
    known = {*outcome.logins.columns["message_id"], *(reject.message_id for reject in outcome.rejected)}
    return [message for message in messages if message.message_id in known]


def consume(
    source: Receiver,
    recorder: Recorder,
    deleter: Deleter,
    leases: LeaseKeeper,
    *,
    limits: Limits,
    brake: Brake,
    stop: StopSignals,
    on_recorded: Callable[[Received, Recorded], None],
    on_deleted: Callable[[Deletion], None],
) -> None:
    """Take batch after batch from the queue, record each and delete its messages.

    Returns when the queue has been drained for ``limits.idle_seconds``, when ``limits.run_seconds`` have passed, or
    when it is asked to stop: the batch in work is finished, everything else stays leased, for its keeper to return.

    Args:
        source: not started yet; stopped at the end.
        recorder: processes and records.
        deleter: closed at the end.
        leases: of what ``source`` receives.
        limits: when to end.
        brake: ends the run where its first messages are nearly all rejected.
        stop: asks to stop.
        on_recorded: told of each batch that was recorded, with the one that was received.
        on_deleted: told of the deletes of each batch.

    Raises:
        QueueError: receiving failed for good; what was received before is recorded.
        DatabaseError: a batch could not be recorded.
        BrakeError: the first messages were nearly all rejected; they are recorded, and no others.
        ClearValueError: as `process_batch`.
    """
    books = _Deletes(deleter, leases, recorder, on_deleted)
    deadline, clean = time.monotonic() + limits.run_seconds, False
    source.limit_batches(brake.batch_limit)
    source.start()
    try:
        for batch in _batches(source, books, deadline, limits.idle_seconds, stop):
            for recorded in recorder.record(list(batch.messages.values())):
                deliveries = [i for message in recorded.messages for i in batch.deliveries_of(message.message_id)]
                deleter.submit(recorded.outcome.batch_id, deliveries, calls_at_once=max(1, source.counts.receivers))
                on_recorded(batch, recorded)
                brake.add(recorded.outcome)
            brake.check()
            source.limit_batches(brake.batch_limit)
            # One batch is being deleted while the next one is in work, and no more: memory stays bounded.
            books.collect(max_pending=1, give_up=lambda: stop.requested)
        clean = not stop.requested
    finally:
        source.stop(wait_seconds=None if clean else _STOP_SECONDS)
        books.close(wait_seconds=min(leases.visibility_seconds, _MAX_DELETE_SECONDS) if clean else _STOP_SECONDS)
        try:
            recorder.flush(try_again=clean)
        except DatabaseError:
            # What ended the run has more to say.
            if clean:
                raise


def _batches(
    source: Receiver, deletes: "_Deletes", deadline: float, idle_seconds: float, stop: StopSignals
) -> Iterator[Received]:
    """Yield batch after batch until the end of the run; also what was received when that came."""
    receiving = True
    while not stop.requested:
        if receiving and time.monotonic() >= deadline:
            source.stop()
            receiving = False
        batch = source.next_batch(_CHECK_SECONDS)
        if batch is not None:
            yield batch
            continue
        if not receiving:
            return
        deletes.collect()
        deletes.flush()
        idle_since = source.idle_since
        if idle_since is not None and time.monotonic() - idle_since >= idle_seconds:
            source.stop()
            receiving = False


@dataclass
class _Deletes:
    """What becomes of the deletes: counted, and written with the next batch."""

    deleter: Deleter
    leases: LeaseKeeper
    recorder: Recorder
    on_deleted: Callable[[Deletion], None]
    leases_lost: int = 0

    def collect(self, *, max_pending: int | None = None, give_up: Callable[[], bool] = lambda: False) -> None:
        self._note(self.deleter.finished(max_pending=max_pending, give_up=give_up))

    def close(self, *, wait_seconds: float) -> None:
        self._note(self.deleter.close(wait_seconds=wait_seconds))

    def flush(self) -> None:
        self.recorder.flush()

    def _note(self, done: Sequence[tuple[str, Deletion]]) -> None:
        finished = []
        for batch_id, deletion in done:
            self.on_deleted(deletion)
            lost, self.leases_lost = self.leases.lost - self.leases_lost, self.leases.lost
            finished.append(Finished(batch_id, deletion.deleted, deletion.failures.total(), lost))
        self.recorder.finish(finished)
