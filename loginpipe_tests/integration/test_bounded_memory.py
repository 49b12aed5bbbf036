"""Memory stays bounded for large messages and long runs: the whole pipeline in its own process."""

import json
from pathlib import Path

import pytest

from loginpipe.sqs import receiver as module
from loginpipe.sqs.client import Queue
from loginpipe.sqs.leases import LeaseKeeper
from loginpipe.sqs.receiver import MAX_KEPT_BODY_BYTES, Receiver
from loginpipe_tests.crash.logins import logins
from loginpipe_tests.crash.place import FastPlace
from loginpipe_tests.wire import login

BODY_BYTES = 1_048_000
"""Just below SQS's limit of 1 MiB."""

needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux' /proc")

RUN = """
import json, sys
from pathlib import Path
from loginpipe.ingest import record
from loginpipe_tests.crash.run_job import run, peak_mebibytes

process_batch, peaks = record.process_batch, []

def noted(*arguments, **named):
    peaks.append(peak_mebibytes())
    return process_batch(*arguments, **named)

record.process_batch = noted
code = run(Path("."), None, "hang")
Path("peaks.json").write_text(json.dumps([*peaks, peak_mebibytes()]))
sys.exit(code)
"""


def peaks_of_a_run(place: FastPlace, **environment: str) -> list[float]:
    """Run the job in its own process; return its peak memory up to each batch, in MiB."""
    with place.start_fresh("-c", RUN, **environment) as run:
        assert run.wait(300) == 0, run.log()
        return [float(peak) for peak in json.loads((run.folder / "peaks.json").read_text())]


@needs_proc
def test_a_run_over_a_hundred_thousand_messages_grows_no_further_after_its_first_third(place: FastPlace) -> None:
    place.send(logins(100_000))
    peaks = peaks_of_a_run(place, LOGINPIPE_BATCH_MESSAGES="2500")
    assert place.rows("SELECT sum(received)::integer, count(DISTINCT run_id) FROM loginpipe.batches") == [(100_000, 1)]
    assert len(peaks) > 40
    assert peaks[-1] - peaks[len(peaks) // 3] < 40, peaks
    assert peaks[-1] < 400


@needs_proc
def test_messages_of_a_mebibyte_good_and_bad_are_worked_off_by_one_run_in_bounded_memory(place: FastPlace) -> None:
    number = 400
    padding = "x" * (BODY_BYTES - len(login(user_id="user-000", padding="")))
    good = [login(user_id=f"user-{i:03}", padding=padding) for i in range(number)]
    for start in range(0, number, 10):
        bodies = [body if i % 2 else body.replace('"', "'", 1) for i, body in enumerate(good[start : start + 10])]
        place.endpoint.send(place.queue.name, bodies)
    peaks = peaks_of_a_run(place)
    assert place.rows("SELECT sum(inserted)::integer, sum(rejected)::integer FROM loginpipe.batches") == [(200, 200)]
    ((largest, batches),) = place.rows("SELECT max(received), count(*) FROM loginpipe.batches")
    assert largest * BODY_BYTES < MAX_KEPT_BODY_BYTES
    assert batches > 3
    assert peaks[-1] - peaks[len(peaks) // 2] < 200, peaks
    # It is 630 for any number of messages; the container of a run has 1 GiB.
    assert peaks[-1] < 850


def test_a_batch_is_bounded_by_the_memory_that_bodies_take_not_by_their_characters(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one emoji in a body, Python stores each of its characters in four bytes."""
    monkeypatch.setattr(module, "MAX_BODY_BYTES", 150_000)
    for _ in range(3):
        entries = [{"Id": str(place), "MessageBody": "x" * 10_000 + "\U0001f600"} for place in range(10)]
        queue.client.send_message_batch(QueueUrl=queue.url, Entries=entries)  # type: ignore[arg-type]
    leases = LeaseKeeper(queue, visibility_seconds=60, calls_at_once=1)
    receiver = Receiver(queue, leases, batch_messages=100, linger_seconds=1, visibility_seconds=60, receivers=1)
    receiver.start()
    received = receiver.next_batch(20)
    receiver.stop()
    leases.close()
    assert received is not None
    assert len(received.messages) == 10
