"""The command line, and the queue with a proxy before it, for the tests that tamper with what goes over the wire."""

from collections.abc import Iterator

import pytest

from loginpipe.sqs.client import Queue, open_queue
from loginpipe_tests.commands import Command, command_line
from loginpipe_tests.wire import Wire


@pytest.fixture
def loginpipe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return command_line(monkeypatch, capsys)


@pytest.fixture
def wire(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    with Wire(queue.client.meta.endpoint_url) as wire:
        monkeypatch.setenv("AWS_ENDPOINT_URL", wire.url)
        yield wire


@pytest.fixture
def opened(queue: Queue, wire: Wire) -> Queue:
    """The queue by way of the wire."""
    return open_queue(queue.name, connections=16)
