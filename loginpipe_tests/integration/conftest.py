"""The queue with a proxy before it, and what runs are broken on: an endpoint and a Postgres of a file's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from loginpipe.sqs import client
from loginpipe.sqs.client import Queue, open_queue
from loginpipe_tests.conftest import KeyFiles
from loginpipe_tests.crash.place import FastPlace, fast_place
from loginpipe_tests.crash.postgres import Postgres, running_postgres
from loginpipe_tests.sqs_endpoint import Endpoint, running_endpoint
from loginpipe_tests.wire import Wire


@pytest.fixture
def wire(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    with Wire(queue.client.meta.endpoint_url) as wire:
        monkeypatch.setenv("AWS_ENDPOINT_URL", wire.url)
        yield wire


@pytest.fixture
def opened(queue: Queue, wire: Wire) -> Queue:
    """The queue by way of the wire."""
    return open_queue(queue.name, connections=16)


@pytest.fixture
def tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call to SQS that fails is not tried again."""
    monkeypatch.setattr(client, "_ATTEMPTS", 1)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with running_endpoint() as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """A Postgres that may be stopped."""
    with running_postgres() as postgres:
        yield postgres


@pytest.fixture
def place(endpoint: Endpoint, database_url: str, key_files: KeyFiles, tmp_path: Path) -> FastPlace:
    return fast_place(endpoint, database_url, key_files, tmp_path)
