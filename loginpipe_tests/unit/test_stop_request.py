"""A request to stop: by a signal, however many come and whatever they interrupt, and by the end of an input."""

import signal
import subprocess
import sys

import pytest

WAITS = """
import sys
from loginpipe.common.stop_request import StopRequest

stop = StopRequest()
print("ready", flush=True)
while not stop.wait(0.0001):
    pass
print("stopped", flush=True)
sys.stdin.read()
print("ended", flush=True)
"""
UNTIL_ITS_INPUT_ENDS = """
import sys
from loginpipe.common.stop_request import StopRequest

stop = StopRequest(also_at_end_of=sys.stdin.fileno())
print(stop.wait(0), flush=True)
print(stop.wait(), stop.wait(0))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_storm_of_signals_is_one_request_and_holds_nothing_up(number: signal.Signals) -> None:
    for _ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", WAITS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        with process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == b"ready\n"
                for _ in range(5_000):
                    process.send_signal(number)
                assert process.communicate(timeout=60) == (b"stopped\nended\n", b"")
            finally:
                process.kill()


def test_the_end_of_an_input_is_a_request_and_so_it_stays() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", UNTIL_ITS_INPUT_ENDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"False\n"
        assert process.communicate(timeout=60) == (b"True True\n", None)


def test_a_signal_while_the_interpreter_ends_its_threads_holds_nothing_up() -> None:
    # Python up to 3.12 holds this lock then, and a thread that starts wants it.
    script = """
import os
import signal
import threading
from contextlib import nullcontext
from loginpipe.common.stop_request import StopRequest

stop = StopRequest()
with getattr(threading, "_shutdown_locks_lock", nullcontext()):
    os.kill(os.getpid(), signal.SIGTERM)
    print(stop.wait(0))
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    with process:
        try:
            assert process.communicate(timeout=60) == (b"True\n", None)
        finally:
            process.kill()
