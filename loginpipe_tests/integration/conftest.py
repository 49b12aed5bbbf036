"""The command line, proxies in front of SQS and KMS, and servers of each test file that tests may break."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest

from loginpipe.common.settings import load_settings
from loginpipe.sqs.client import Queue, open_queue
from loginpipe_tests.commands import Command, command_line
from loginpipe_tests.conftest import KeyFiles
from loginpipe_tests.crash.place import FastPlace, fast_place
from loginpipe_tests.crash.postgres import Postgres, running_postgres
from loginpipe_tests.sqs_endpoint import Endpoint, running_endpoint
from loginpipe_tests.wire import Wire

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient


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
    """Return the queue, opened through the wire."""
    return open_queue(queue.name, load_settings(), connections=16)


@pytest.fixture
def tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not retry failed calls to AWS."""
    monkeypatch.setattr("loginpipe.common.aws._ATTEMPTS", 1)


@pytest.fixture
def kms(aws: None) -> "KMSClient":
    return boto3.session.Session().client("kms")


@pytest.fixture
def kms_wire(kms: "KMSClient", tried_once: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    """Yield a wire between the code under test and KMS."""
    with Wire(kms.meta.endpoint_url) as wire:
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", wire.url)
        yield wire


@pytest.fixture(scope="module")
def endpoint_of_the_file() -> Iterator[Endpoint]:
    with running_endpoint() as endpoint:
        yield endpoint


@pytest.fixture
def endpoint(endpoint_of_the_file: Endpoint) -> Iterator[Endpoint]:
    """Yield an endpoint whose clock is right, however far earlier tests moved it: near midnight, dates depend on it."""
    yield endpoint_of_the_file
    endpoint_of_the_file.reset_clock()


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """Yield a Postgres server that tests may stop."""
    with running_postgres() as postgres:
        yield postgres


@pytest.fixture
def place(endpoint: Endpoint, database_url: str, key_files: KeyFiles, tmp_path: Path) -> FastPlace:
    return fast_place(endpoint, database_url, key_files, tmp_path)
