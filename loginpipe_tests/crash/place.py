"""A queue with its dead-letter queue, and a database, for the runs of one test."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch
from uuid import uuid4

import boto3
import dagster as dg
import psycopg2

from loginpipe.definitions import build_definitions
from loginpipe.defs.ingest.job import INGEST_JOB
from loginpipe.local.environment import create_login_queue
from loginpipe.postgres.connections import connect
from loginpipe.postgres.ledger import recorded
from loginpipe.sqs.client import Queue, batched
from loginpipe.sqs.dead_letters import redrive
from loginpipe_tests.conftest import KeyFiles
from loginpipe_tests.crash.logins import Login
from loginpipe_tests.crash.points import Point, stopping_at
from loginpipe_tests.crash.runs import Run, forked, fresh
from loginpipe_tests.sqs_endpoint import Endpoint

VISIBILITY_SECONDS: Final = 600
"""Longer than any test. If a message comes again sooner, it was returned, or the test set the clock forward."""

_KEPT: Final = ("PATH", "HOME", "LANG", "TMPDIR", "AWS_EC2_METADATA_DISABLED")
_MAX_RUNS: Final = 20


@dataclass
class Place:
    """The queues, the database and the folder of runs.

    Attributes:
        queue: as the test reaches it, also if a proxy is between it and the runs.
        environment: of the runs; it may be changed.
        folder: for the files of the runs.
        sent: message id → login that the test sent.
    """

    queue: Queue
    dead_letters: Queue
    database_url: str
    environment: dict[str, str]
    folder: Path
    sent: dict[str, Login] = field(default_factory=dict, repr=False)
    _numbers: Iterator[int] = field(default_factory=count, repr=False)

    def send(self, logins: Iterable[Login]) -> None:
        """Send messages to the queue."""
        for chunk in batched(logins):
            entries: Any = [{"Id": str(place), "MessageBody": login.body} for place, login in enumerate(chunk)]
            answer = self.queue.client.send_message_batch(QueueUrl=self.queue.url, Entries=entries)
            self.sent |= {entry["MessageId"]: chunk[int(entry["Id"])] for entry in answer["Successful"]}

    def start(self, stop_at: Point | None = None, how: str = "hang", batch: int = 1, **settings: object) -> Run:
        """Start a run in its own process, with these settings, for example ``batch_messages=10``."""
        arguments = ["--stop-at", str(stop_at), "--how", how, "--batch", str(batch)] if stop_at else []
        return forked(self._new_folder(), self.environment | _named(settings), arguments)

    def start_lambda(self, address: str, stop_at: Point | None = None) -> Run:
        """Start an execution environment of AWS Lambda, which is killed at a point of its first batch."""
        arguments = ["--stop-at", str(stop_at)] if stop_at else []
        environment = self.environment | {"AWS_LAMBDA_RUNTIME_API": address}
        return forked(self._new_folder(), environment, arguments, "loginpipe_tests.crash.run_lambda")

    def start_fresh(self, *command: str, **environment: str) -> Run:
        """Start a Python command in its own folder, which ``CRASH_FOLDER`` also names."""
        folder = self._new_folder()
        return fresh(folder, self.environment | environment | {"CRASH_FOLDER": str(folder)}, command)

    def run(
        self,
        stop_at: Point | None = None,
        act: Callable[[], object] = lambda: None,
        batch: int = 1,
        *,
        receives: bool = True,
        **settings: object,
    ) -> dg.ExecuteInProcessResult:
        """Run the job in this process, and act at a point of one of its batches; see `stopping_at`."""
        with (
            patch.dict(os.environ, self.environment | _named(settings)),
            stopping_at(stop_at, act, batch=batch, receives=receives) as overrides,
            dg.DagsterInstance.ephemeral() as instance,
        ):
            job = build_definitions(overrides).resolve_job_def(INGEST_JOB)
            return job.execute_in_process(instance=instance, raise_on_error=False)

    def drain(self) -> None:
        """Run the job until no message is visible."""
        for _ in range(_MAX_RUNS):
            assert self.run().success
            if not self.waiting():
                return
        raise AssertionError(f"{self.waiting()} messages wait after {_MAX_RUNS} runs")

    def waiting(self) -> int:
        """Return the number of messages that could be received now."""
        return self._number("ApproximateNumberOfMessages")

    def in_flight(self) -> int:
        """Return the number of messages in flight."""
        return self._number("ApproximateNumberOfMessagesNotVisible")

    def queued(self) -> frozenset[str]:
        """Return the ids of all messages on the queue and the dead-letter queue."""
        raise NotImplementedError

    def redrive(self) -> None:
        """Move the dead letters back, and drop those that have an outcome, as `loginpipe dlq redrive` does."""
        with closing(connect(self.database_url)) as connection:
            redrive(
                self.queue,
                self.dead_letters,
                recorded=lambda known_as: recorded(connection, [i.message_id for i in known_as]),
            )

    def rows(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        with closing(psycopg2.connect(self.database_url)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement, parameters or None)
                return cursor.fetchall() if cursor.description else []

    def _new_folder(self) -> Path:
        folder = self.folder / f"run-{next(self._numbers)}"
        folder.mkdir()
        return folder

    def _number(self, attribute: Any) -> int:
        answer = self.queue.client.get_queue_attributes(QueueUrl=self.queue.url, AttributeNames=[attribute])
        return int(answer["Attributes"][attribute])


@dataclass
class FastPlace(Place):
    """A place on our own endpoint: its clock can be set forward, and it can inject errors."""

    endpoint: Endpoint = field(kw_only=True)

    def send(self, logins: Iterable[Login]) -> None:
        sent = list(logins)
        ids = self.endpoint.send(self.queue.name, [login.body for login in sent])
        self.sent |= dict(zip(ids, sent, strict=True))

    def finish(self) -> None:
        """Let all leases end, drain the queue, and redrive dead letters until there are none."""
        while True:
            self.endpoint.advance(VISIBILITY_SECONDS + 1)
            self.drain()
            if not any(fate.present for fate in self.endpoint.fates(self.dead_letters.name).values()):
                return
            self.redrive()

    def queued(self) -> frozenset[str]:
        counts = (self.endpoint.fates(queue.name) for queue in (self.queue, self.dead_letters))
        return frozenset(message_id for book in counts for message_id, fate in book.items() if fate.present)

    def receives(self) -> list[int]:
        """Return how often each message was received."""
        return [fate.receives for fate in self.endpoint.fates(self.queue.name).values()]


@dataclass
class EmbeddedPlace(Place):
    """A place on the embedded AWS endpoint, where time is real."""

    def queued(self) -> frozenset[str]:
        return frozenset(message_id for queue in (self.queue, self.dead_letters) for message_id in _all_of(queue))


def fast_place(endpoint: Endpoint, database_url: str, key_files: KeyFiles, folder: Path) -> FastPlace:
    """Make a queue on our endpoint, with no injected errors."""
    endpoint.clear_faults()
    queue, dead_letters = _queues(endpoint.client)
    environment = _environment(endpoint.aws_environment, queue, database_url, key_files)
    return FastPlace(queue, dead_letters, database_url, environment, folder, endpoint=endpoint)


def embedded_place(aws: Mapping[str, str], database_url: str, key_files: KeyFiles, folder: Path) -> EmbeddedPlace:
    """Make a queue on the embedded AWS endpoint that these variables name."""
    client = boto3.client(
        "sqs",
        endpoint_url=aws["AWS_ENDPOINT_URL"],
        region_name=aws["AWS_REGION"],
        aws_access_key_id=aws["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=aws["AWS_SECRET_ACCESS_KEY"],
    )
    queue, dead_letters = _queues(client)
    return EmbeddedPlace(queue, dead_letters, database_url, _environment(aws, queue, database_url, key_files), folder)


def _queues(client: Any) -> tuple[Queue, Queue]:
    name = f"crash-{uuid4().hex}"
    url = create_login_queue(client, name)
    dead_letters = f"{name}-dlq"
    return (
        Queue(name, url, client),
        Queue(dead_letters, client.get_queue_url(QueueName=dead_letters)["QueueUrl"], client),
    )


def _environment(aws: Mapping[str, str], queue: Queue, database_url: str, key_files: KeyFiles) -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    settings = {
        "queue": queue.name,
        "database_url": database_url,
        "token_keys": f"file:{key_files.token_keys}",
        "seal_key": f"file:{key_files.seal_public}",
        "visibility_seconds": VISIBILITY_SECONDS,
    }
    return kept | dict(aws) | _named(settings)


def _named(settings: Mapping[str, object]) -> dict[str, str]:
    return {f"LOGINPIPE_{name.upper()}": str(value) for name, value in settings.items()}


def _all_of(queue: Queue) -> Iterator[str]:
    """Receive all messages of a queue, and return them to it."""
    held: list[Any] = []
    while messages := queue.client.receive_message(
        QueueUrl=queue.url, MaxNumberOfMessages=10, WaitTimeSeconds=1, VisibilityTimeout=60
    ).get("Messages"):
        held += messages
    for chunk in batched(held):
        queue.client.change_message_visibility_batch(
            QueueUrl=queue.url,
            Entries=[
                {"Id": str(place), "ReceiptHandle": m["ReceiptHandle"], "VisibilityTimeout": 0}
                for place, m in enumerate(chunk)
            ],
        )
    yield from (message["MessageId"] for message in held)
