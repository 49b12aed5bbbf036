"""The cost of a message, measured independently of the machine: function calls, and ratios within one run.

A step that processes single messages instead of columns is visible here at once. `make bench` measures microseconds.
"""

import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

import pytest

from loginpipe.common.settings import load_settings
from loginpipe.sqs.client import Queue, open_queue
from loginpipe_tests.crash.logins import logins
from loginpipe_tests.crash.place import FastPlace
from loginpipe_tests.sqs_endpoint import Endpoint, running_endpoint

MAX_CALLS = 60
"""Calls of Python and C functions for one message, from received to stored: 54 when this was written.

If a column is validated, masked or written cell by cell, each cell adds one to five.
"""

MIN_CLIENT_RATIO = 8
"""Ratio of boto3's CPU time to our client's, for a receive and a delete of ten: 20 when this was written."""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with running_endpoint(no_fates=True) as endpoint:
        yield endpoint


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """Count the calls of this thread by file and name. Calls of other threads depend on the machine."""
    calls: Counter[str] = Counter()

    def count(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            calls[f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_name}"] += 1
        elif event == "c_call":
            calls[getattr(argument, "__qualname__", "?")] += 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        yield calls
    finally:
        sys.setprofile(before)


def calls_of_a_run(place: FastPlace, messages: int) -> Counter[str]:
    place.send(logins(messages))
    # In one full batch, even on a busy machine, because a batch costs thousands of calls besides its messages.
    with counting() as calls:
        assert place.run(batch_messages=messages, linger_seconds=60, brake="off").success
    return calls


def test_a_message_takes_no_more_calls_than_it_did(place: FastPlace) -> None:
    # The first run imports modules and fills caches.
    calls_of_a_run(place, 100)
    few, many = calls_of_a_run(place, 1000), calls_of_a_run(place, 3000)
    of_message = Counter({name: (calls - few[name]) / 2000 for name, calls in many.items()})
    most = "\n".join(f"{calls:6.2f} {name}" for name, calls in of_message.most_common(60))
    assert 1 < sum(of_message.values()) < MAX_CALLS, most


def cpu_of_ten(queue: Queue, times: int) -> float:
    """Return the CPU seconds of receiving ten messages and deleting them."""
    client, began = queue.client, time.thread_time()
    for _ in range(times):
        messages = client.receive_message(QueueUrl=queue.url, MaxNumberOfMessages=10)["Messages"]
        entries: Any = [{"Id": str(i), "ReceiptHandle": m["ReceiptHandle"]} for i, m in enumerate(messages)]
        assert len(client.delete_message_batch(QueueUrl=queue.url, Entries=entries)["Successful"]) == 10
    return (time.thread_time() - began) / times


def test_our_client_takes_a_fraction_of_boto3_s_cpu(endpoint: Endpoint) -> None:
    endpoint.client.create_queue(QueueName="clients")
    endpoint.send_samples("clients", 6000, seed=1)
    queues = {}
    for name in ("lean", "boto3"):
        with patch.dict(os.environ, {**endpoint.aws_environment, "LOGINPIPE_SQS_CLIENT": name}):
            queues[name] = open_queue("clients", load_settings(), connections=1)
            cpu_of_ten(queues[name], 10)
    # In turns, so that a busy moment of the machine affects both.
    spent = Counter(dict.fromkeys(queues, 0.0))
    for _ in range(5):
        for name, queue in queues.items():
            spent[name] += cpu_of_ten(queue, 40)
    assert spent["boto3"] > MIN_CLIENT_RATIO * spent["lean"]
