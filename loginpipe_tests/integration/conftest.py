"""The command line; the queue and KMS, also with a proxy before them, for the tests that tamper with the wire."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import boto3
import pytest

from loginpipe.common.settings import load_settings
from loginpipe.sqs.client import Queue, open_queue
from loginpipe_tests.commands import Command, command_line
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
    """The queue by way of the wire."""
    return open_queue(queue.name, load_settings(), connections=16)


@pytest.fixture
def kms(aws: None) -> "KMSClient":
    return boto3.session.Session().client("kms")


@pytest.fixture
def kms_wire(kms: "KMSClient", monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    """Between the code under test and KMS; nothing is tried again."""
    monkeypatch.setattr("loginpipe.common.aws._ATTEMPTS", 1)
    with Wire(kms.meta.endpoint_url) as wire:
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", wire.url)
        yield wire
