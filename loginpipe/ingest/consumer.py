"""The consumer loop: batch after batch from the queue into the table, until the queue is drained or the time is up.

While one batch is processed and recorded, the next one is received and the messages of the one before are deleted.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

from loginpipe.common.errors import DatabaseError
from loginpipe.ingest.brake import Brake
from loginpipe.ingest.record import Recorded, Recorder
from loginpipe.postgres.batches import Finished
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
    deletes = _Deletes(deleter, leases, recorder, on_deleted)
    deadline, clean = time.monotonic() + limits.run_seconds, False
    source.limit_batches(brake.batch_limit)
    source.start()
    try:
        for batch in _batches(source, deletes, deadline, limits.idle_seconds, stop):
            for recorded in recorder.record(list(batch.messages.values())):
                deliveries = [i for message in recorded.messages for i in batch.deliveries_of(message.message_id)]
                deleter.submit(recorded.outcome.batch_id, deliveries, calls_at_once=max(1, source.counts.receivers))
                on_recorded(batch, recorded)
                brake.add(recorded.outcome)
            brake.check()
            source.limit_batches(brake.batch_limit)
            # One batch is being deleted while the next one is in work, and no more: memory stays bounded.
            deletes.collect(max_pending=1, give_up=lambda: stop.requested)
        clean = not stop.requested
    finally:
        source.stop(wait_seconds=None if clean else _STOP_SECONDS)
        deletes.close(wait_seconds=min(leases.visibility_seconds, _MAX_DELETE_SECONDS) if clean else _STOP_SECONDS)
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
