"""The consumer loop: record batches from the queue in the table until the queue is drained or the time is up.

While one batch is processed and recorded, the next one is received and the messages of the last one are deleted.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

from loginpipe.common.errors import DatabaseError
from loginpipe.ingest.brake import Brake
from loginpipe.ingest.record import Recorded, Recorder
from loginpipe.postgres.batches import Finished
from loginpipe.sqs.deletion import Deleter, Deletion
from loginpipe.sqs.leases import LeaseKeeper
from loginpipe.sqs.receiver import Received, Receiver

# How soon a request to stop, or the end of a run's time, is noticed if no messages arrive.
_CHECK_SECONDS = 0.25

# How long a stopped or failed run waits for deletes. Orchestrators kill it after 30 seconds.
_STOP_SECONDS = 5.0

# The longest that other runs wait for deletes. The outcome is committed, so the run should still succeed: it must end
# before the longest runtime that Dagster allows it, five minutes after its time.
MAX_DELETE_SECONDS = 180.0


class StopSignals:
    """Handles SIGTERM and SIGINT during a run: the first signal asks it to stop, the next goes to the previous handler.

    Outside the main thread it does nothing, because Python delivers signals to the main thread only.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._taken: int | None = None

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._take) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the previous handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def requested(self) -> bool:
        """Return True if the run has been asked to stop."""
        return self._taken is not None

    def pass_on(self) -> None:
        """Raise the signal again for the previous handler. Call it after the context."""
        if self._taken is not None:
            signal.raise_signal(self._taken)

    def _take(self, number: int, frame: FrameType | None) -> None:
        # Take no lock here, because the main thread may hold it.
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
    idle_seconds: float,
    run_seconds: float,
    brake: Brake,
    stop: StopSignals,
    on_recorded: Callable[[Received, Recorded], None],
    on_deleted: Callable[[Deletion], None],
) -> None:
    """Take batches from the queue, record each one and delete its messages.

    Returns when the queue has been drained for ``idle_seconds``, when ``run_seconds`` have passed, or when a stop is
    requested. After a stop the current batch is finished; the lease keeper returns all other messages.

    ``source`` is not started yet. At the end it is stopped, and ``deleter`` is closed. ``on_recorded`` is called with
    each received batch and each record of it, ``on_deleted`` with the deletes of each batch.

    Raises:
        QueueError: receiving failed permanently; the messages received before are recorded.
        DatabaseError: a batch could not be recorded.
        BrakeError: nearly all of the first messages were rejected; these are recorded, and no others.
        ClearValueError: as `process_batch`.
    """
    lost_before = 0

    def note(done: Sequence[tuple[str, Deletion]]) -> None:
        """Pass the results of deletes to ``on_deleted`` and to the recorder."""
        nonlocal lost_before
        for batch_id, deletion in done:
            on_deleted(deletion)
            lost, lost_before = leases.lost - lost_before, leases.lost
            recorder.finish([Finished(batch_id, deletion.deleted, deletion.failures.total(), lost)])

    def idle() -> None:
        note(deleter.finished())
        recorder.flush()

    deadline, clean = time.monotonic() + run_seconds, False
    source.limit_batches(brake.batch_limit)
    source.start()
    try:
        for batch in _batches(source, deadline, idle_seconds, stop, idle):
            for recorded in recorder.record(list(batch.messages.values())):
                ids = [message.message_id for message in recorded.messages]
                deliveries = [delivery for i in ids for delivery in batch.delivery_ids.get(i, (i,))]
                deleter.submit(recorded.outcome.batch_id, deliveries, calls_at_once=max(1, source.counts.receivers))
                on_recorded(batch, recorded)
                brake.add(recorded.outcome)
            brake.check()
            source.limit_batches(brake.batch_limit)
            # At most one batch is deleted while the next one is processed, so that memory stays bounded.
            note(deleter.finished(max_pending=1, give_up=lambda: stop.requested))
        clean = not stop.requested
    finally:
        source.stop(wait_seconds=None if clean else _STOP_SECONDS)
        longest = min(leases.visibility_seconds, MAX_DELETE_SECONDS) if clean else _STOP_SECONDS
        note(deleter.close(wait_seconds=longest))
        try:
            recorder.flush(try_again=clean)
        except DatabaseError:
            # The error that ended the run is more useful.
            if clean:
                raise


def _batches(
    source: Receiver, deadline: float, idle_seconds: float, stop: StopSignals, idle: Callable[[], None]
) -> Iterator[Received]:
    """Yield batches until the end of the run, including those received by then. Call ``idle`` while there is none."""
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
        idle()
        idle_since = source.idle_since
        if idle_since is not None and time.monotonic() - idle_since >= idle_seconds:
            source.stop()
            receiving = False
