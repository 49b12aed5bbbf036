"""The environment of all measurements: a fast endpoint, the embedded Postgres, keys, and a folder as DAGSTER_HOME."""

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import psutil
import psycopg2

from loginpipe.local.environment import create_login_queue, environment
from loginpipe.local.processes import read_state
from loginpipe.local.stack import LocalStack, running_stack
from loginpipe.masking.key_files import generate_seal_key, generate_token_keys
from loginpipe.postgres.migrate import migrate
from loginpipe_tests.sqs_endpoint import Endpoint, running_endpoint

ROOT: Final = Path(__file__).parents[1]
MIGRATED: Final = "migrated"
"""The template of fresh databases."""

_KEPT: Final = ("PATH", "HOME", "LANG", "TMPDIR")
_SENT_AT_ONCE: Final = 10_000


@dataclass(frozen=True)
class LoginQueue:
    """A queue with messages, and their ids."""

    name: str
    url: str
    ids: list[str]


@dataclass(frozen=True)
class Ground:
    """The servers, and functions that create queues and databases on them."""

    folder: Path
    stack: LocalStack
    endpoint: Endpoint
    _numbers: "count[int]" = field(default_factory=count)

    def variables(self, queue: str, database_url: str) -> dict[str, str]:
        """Return the complete environment of a measured process, without any setting of the user."""
        return {
            **{name: os.environ[name] for name in _KEPT if name in os.environ},
            **environment(self.stack, self.folder),
            **self.endpoint.aws_environment,
            "AWS_EC2_METADATA_DISABLED": "true",
            "DAGSTER_HOME": str(self.folder),
            "PYTHONPATH": str(ROOT),
            "LOGINPIPE_QUEUE": queue,
            "LOGINPIPE_DATABASE_URL": database_url,
        }

    @contextmanager
    def queue(self, bodies: Sequence[str] = ()) -> Iterator[LoginQueue]:
        """Create a queue with these messages, and delete it at the end."""
        name = f"logins-{next(self._numbers)}"
        queue = LoginQueue(name, create_login_queue(self.endpoint.client, name), [])
        self.send(queue, bodies)
        try:
            yield queue
        finally:
            self.endpoint.client.delete_queue(QueueUrl=queue.url)

    def send(self, queue: LoginQueue, bodies: Sequence[str]) -> None:
        """Send messages to a queue, and record their ids."""
        for start in range(0, len(bodies), _SENT_AT_ONCE):
            queue.ids.extend(self.endpoint.send(queue.name, bodies[start : start + _SENT_AT_ONCE]))

    def deleted(self, queue: str) -> int:
        """Return how many messages of a queue were deleted."""
        return int(self.endpoint.stats()["queues"][queue].get("deleted", 0))

    @contextmanager
    def database(self, template: str) -> Iterator[str]:
        """Create a database as a copy of another, yield its URL, and drop it at the end."""
        name = self.create_database(f"measured_{next(self._numbers)}", template)
        try:
            yield self.url(name)
        finally:
            execute(self.stack.database_url, f"DROP DATABASE {name} WITH (FORCE)")

    def create_database(self, name: str, template: str) -> str:
        """Create a permanent database as a copy of another; return its name."""
        execute(self.stack.database_url, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        return name

    def url(self, database: str) -> str:
        """Return the URL of a database."""
        return self.stack.database_url.replace("/loginpipe?", f"/{database}?")

    def endpoint_cpu_seconds(self) -> float:
        """Return the CPU seconds of the endpoint since its start."""
        return float(self.endpoint.stats()["cpu_seconds"])

    def postgres_cpu_seconds(self) -> float:
        """Return the CPU seconds of the server and its sessions since its start, including open sessions."""
        (pid,) = [record.pid for record in read_state(self.folder).processes if record.name == "Postgres"]
        server = psutil.Process(pid)
        of_server = server.cpu_times()
        seconds = of_server.user + of_server.system + of_server.children_user + of_server.children_system
        for child in server.children():
            try:
                of_child = child.cpu_times()
            except psutil.NoSuchProcess:
                continue
            seconds += of_child.user + of_child.system
        return float(seconds)


def fast_endpoint() -> AbstractContextManager[Endpoint]:
    """Run an SQS endpoint that does not record what becomes of each message, during a ``with`` block."""
    return running_endpoint(no_fates=True)


@contextmanager
def running_ground() -> Iterator[Ground]:
    """Run the servers during a ``with`` block, in a temporary folder.

    Postgres has the settings of `loginpipe local up`: committed data is on disk.
    """
    with (
        TemporaryDirectory(prefix="loginpipe-bench-") as folder,
        running_stack(Path(folder)) as stack,
        fast_endpoint() as endpoint,
    ):
        ground = Ground(Path(folder).resolve(), stack, endpoint)
        shutil.copy(ROOT / "dagster.yaml", ground.folder)
        generate_token_keys(ground.folder / "keys" / "token_keys.json", development=True)
        generate_seal_key(ground.folder / "keys" / "seal_public.pem")
        migrate(ground.url(ground.create_database(MIGRATED, "template1")))
        yield ground


def execute(database_url: str, statement: str) -> None:
    """Execute a statement outside of any transaction."""
    with closing(psycopg2.connect(database_url)) as connection:
        connection.autocommit = True
        connection.cursor().execute(statement)


def rows(database_url: str, query: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query."""
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchall()


def program(name: str) -> str:
    """Return the path of a program of this virtual environment."""
    return str(Path(sys.executable).with_name(name))
