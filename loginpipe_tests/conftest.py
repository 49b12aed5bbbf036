"""Real servers for the tests: one embedded stack for each test process, a database and a queue for each test."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import boto3
import dagster as dg
import dagster._core.storage.event_log.in_memory
import dagster._core.storage.runs.in_memory
import psycopg2
import pytest

from loginpipe.common import logins_table
from loginpipe.common.settings import load_settings
from loginpipe.defs.ingest.assets import STEP
from loginpipe.defs.ingest.job import INGEST_JOB
from loginpipe.local.environment import create_login_queue
from loginpipe.local.stack import LocalStack, running_stack
from loginpipe.masking.key_files import generate_seal_key, generate_token_keys, private_half
from loginpipe.postgres.migrate import migrate
from loginpipe.sqs import deliveries
from loginpipe.sqs.client import Queue, open_queue
from loginpipe.sqs.sending import send_bodies

os.environ["AWS_EC2_METADATA_DISABLED"] = "true"


UNTRACED = {
    "test_adopted_table.py", "test_another_schema.py", "test_bounded_memory.py", "test_chaos.py",
    "test_concurrent_runs.py", "test_crashes.py", "test_in_flight_limit.py", "test_main_job.py",
    "test_masking_in_force.py", "test_no_clear_values.py", "test_other_endpoints.py", "test_postgres_restart.py",
    "test_redelivery.py", "test_sqs_endpoint_conformance.py", "test_three_days.py", "test_two_queues.py",
    "test_work_per_message.py",
}  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Pause coverage in whole runs, whose lines other tests reach as well: tracing takes a third of their CPU."""
    for item in items:
        if item.path.name in UNTRACED:
            item.add_marker("no_cover")


@pytest.fixture(autouse=True)
def _settings_of_this_test_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Isolate the test from the environment and the ``.env`` of the developer's machine, and from other tests."""
    for name in list(os.environ):
        if name.startswith(("LOGINPIPE_", "DAGSTER_", "AWS_")) and name != "AWS_EC2_METADATA_DISABLED":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(logins_table._chosen, "table", logins_table.DEFAULT_TABLE)


BEFORE_MIDNIGHT_SECONDS: Final = 30
"""Longer than nearly every test."""


@pytest.fixture(autouse=True)
def _of_one_day() -> None:
    """Begin no test just before midnight (UTC): tests and servers must mean the same day by today."""
    left = 86_400 - time.time() % 86_400
    if left < BEFORE_MIDNIGHT_SECONDS:
        time.sleep(left)


@pytest.fixture(autouse=True)
def _short_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """End runs as soon as no message is left. The endpoints of the tests need no long polls to know that."""
    monkeypatch.setattr(deliveries, "LONG_POLL_SECONDS", 0)


@pytest.fixture
def long_polls(_short_polls: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let receives wait for messages, as in production."""
    monkeypatch.setattr(deliveries, "LONG_POLL_SECONDS", 1)


@pytest.fixture(scope="session", autouse=True)
def _instances_without_migrations() -> Iterator[None]:
    """Make ephemeral instances of Dagster in a quarter of the time.

    Dagster notes the newest revision in their tables, which nothing reads, and alembic loads some 90 migrations to
    find it.
    """
    with pytest.MonkeyPatch.context() as patch:
        for storage in (dagster._core.storage.runs.in_memory, dagster._core.storage.event_log.in_memory):
            patch.setattr(storage, "stamp_alembic_rev", lambda *_: None)
        yield


MEMORY: Final = Path("/dev/shm")
ROOM: Final = 4 * 2**30


@pytest.fixture(scope="session")
def stack() -> Iterator[LocalStack]:
    with ExitStack() as running:
        with pytest.MonkeyPatch.context() as patch:
            # Each test's database has 442 files. In memory they take a third of the time, if there is space.
            if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM:
                patch.setattr(tempfile, "tempdir", str(MEMORY))
            # Tracing takes CPU. The servers are not ours, and other tests measure what supervises them.
            patch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
            stack = running.enter_context(running_stack())
        yield stack


def execute(database_url: str, *statements: str) -> list[tuple[Any, ...]]:
    """Execute statements, each in its own transaction; return the rows of the last one."""
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        for statement in statements:
            cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


@pytest.fixture
def empty_database_url(stack: LocalStack, roles: None) -> Iterator[str]:
    """Yield the URL of an empty database of this test."""
    name = f"empty_{uuid4().hex}"
    execute(stack.database_url, f"CREATE DATABASE {name}")
    yield stack.database_url.replace("/loginpipe?", f"/{name}?")
    execute(stack.database_url, f"DROP DATABASE {name} WITH (FORCE)")


OWNER = "loginpipe_owner"
PIPELINE = "loginpipe_pipeline"
STRANGER = "stranger"
"""A login with none of the roles."""
LOGINS = {
    PIPELINE: "loginpipe_writer",
    "analyst": "loginpipe_analyst",
    "custodian": "pii_custodian",
    "second_custodian": "pii_custodian",
    "auditor": "pii_auditor",
}
"""Login → the only role that it is a member of."""


def as_role(database_url: str, role: str) -> str:
    """Return the URL of the same database for another role. The embedded server trusts every client of its socket."""
    return database_url.replace("//postgres:@", f"//{role}:@")


@pytest.fixture(scope="session")
def roles(stack: LocalStack) -> None:
    """Create the roles as an administrator does: an owner without privileges, and logins in one group each."""
    execute(stack.database_url, f"CREATE ROLE {OWNER} LOGIN", f"CREATE ROLE {STRANGER} LOGIN")
    for group in sorted(set(LOGINS.values())):
        execute(stack.database_url, f"CREATE ROLE {group} NOLOGIN")
    for login, group in LOGINS.items():
        execute(stack.database_url, f"CREATE ROLE {login} LOGIN IN ROLE {group}")


@pytest.fixture(scope="session")
def migrated_template(stack: LocalStack, roles: None) -> str:
    """Return the name of a database migrated by an owner who is no superuser, as on a managed Postgres.

    Its functions therefore run with the owner's rights.
    """
    name = "migrated_template"
    _migrate_template(stack, name)
    return name


_migrated_on: dict[str, date] = {}


def _migrate_template(stack: LocalStack, name: str) -> None:
    """Migrate a database of this name, unless that was done today: its partitions are those of the day."""
    today = datetime.now(UTC).date()
    if _migrated_on.get(name) != today:
        execute(stack.database_url, f"DROP DATABASE IF EXISTS {name}", f"CREATE DATABASE {name} OWNER {OWNER}")
        migrate(as_role(stack.database_url.replace("/loginpipe?", f"/{name}?"), OWNER))
        _migrated_on[name] = today


@pytest.fixture
def database_url(stack: LocalStack, migrated_template: str) -> Iterator[str]:
    """Yield the URL of a migrated database of this test, as the superuser, to prepare data and to check results."""
    _migrate_template(stack, migrated_template)
    name = f"migrated_{uuid4().hex}"
    # Privileges on the database itself are not copied.
    execute(stack.database_url, f"CREATE DATABASE {name} TEMPLATE {migrated_template} STRATEGY file_copy OWNER {OWNER}")
    url = stack.database_url.replace("/loginpipe?", f"/{name}?")
    yield url
    execute(stack.database_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def owner_url(database_url: str) -> str:
    return as_role(database_url, OWNER)


@pytest.fixture
def pipeline_url(database_url: str) -> str:
    """Return the URL for the pipeline: a login that is a member of loginpipe_writer only."""
    return as_role(database_url, PIPELINE)


@pytest.fixture
def analyst_url(database_url: str) -> str:
    return as_role(database_url, "analyst")


@pytest.fixture
def custodian_url(database_url: str) -> str:
    return as_role(database_url, "custodian")


@pytest.fixture
def second_custodian_url(database_url: str) -> str:
    return as_role(database_url, "second_custodian")


@pytest.fixture
def auditor_url(database_url: str) -> str:
    return as_role(database_url, "auditor")


@pytest.fixture
def stranger_url(database_url: str) -> str:
    """Return the URL for a login with none of the roles. It may connect, because the copied database is open to all."""
    return as_role(database_url, STRANGER)


@pytest.fixture
def aws(stack: LocalStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point every AWS client at the embedded endpoint."""
    for name, value in stack.aws_environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(params=["lean", "boto3"])
def either_client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test with our own SQS client, and again with boto3's."""
    monkeypatch.setenv("LOGINPIPE_SQS_CLIENT", request.param)
    return str(request.param)


@pytest.fixture
def calls_of_a_failure(either_client: str) -> int:
    """Return how many calls a failure takes if boto3 does not retry: after a failure, our client calls boto3."""
    return {"lean": 2, "boto3": 1}[either_client]


@pytest.fixture
def queue(aws: None) -> Iterator[Queue]:
    """Yield a queue of this test, with its dead-letter queue."""
    client = boto3.client("sqs")
    name = f"logins-{uuid4().hex}"
    create_login_queue(client, name)
    queue = open_queue(name, load_settings(), connections=16)
    yield queue
    client.delete_queue(QueueUrl=queue.url)


@dataclass(frozen=True)
class KeyFiles:
    token_keys: Path
    seal_public: Path

    @property
    def seal_private(self) -> Path:
        return private_half(self.seal_public)


@pytest.fixture(scope="session")
def key_files(tmp_path_factory: pytest.TempPathFactory) -> KeyFiles:
    folder = tmp_path_factory.mktemp("keys")
    files = KeyFiles(folder / "token_keys.json", folder / "seal_public.pem")
    generate_token_keys(files.token_keys, development=True)
    generate_seal_key(files.seal_public)
    return files


@pytest.fixture
def settings_environment(
    queue: Queue, pipeline_url: str, key_files: KeyFiles, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """Set the queue, the database (as the pipeline's role) and the keys of this test in the environment."""
    settings = {
        "LOGINPIPE_QUEUE": queue.name,
        "LOGINPIPE_DATABASE_URL": pipeline_url,
        "LOGINPIPE_TOKEN_KEYS": f"file:{key_files.token_keys}",
        "LOGINPIPE_SEAL_KEY": f"file:{key_files.seal_public}",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return settings


@dataclass(frozen=True)
class Pipeline:
    """The whole pipeline on this test's queue and database."""

    queue: Queue
    database_url: str
    instance: dg.DagsterInstance

    def send(self, bodies: Iterable[str]) -> int:
        return send_bodies(self.queue, bodies)

    def run(self, *, idle_seconds: float = 0, **overrides: Any) -> dg.ExecuteInProcessResult:
        """Run the job until the queue is drained; ``overrides`` are resources to use instead."""
        from loginpipe.definitions import build_definitions

        job = build_definitions(overrides).resolve_job_def(INGEST_JOB)
        config = {"ops": {STEP: {"config": {"idle_seconds": idle_seconds}}}}
        return job.execute_in_process(run_config=config, instance=self.instance, raise_on_error=False)

    def rows(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with closing(psycopg2.connect(self.database_url)) as connection, connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            return cursor.fetchall()

    def execute(self, statement: str, *parameters: Any) -> None:
        with closing(psycopg2.connect(self.database_url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(statement, parameters or None)

    def depth(self) -> tuple[int, int]:
        """Return the numbers of visible messages and of messages in flight."""
        from loginpipe.sqs.client import read_depth

        depth = read_depth(self.queue)
        return depth.visible, depth.in_flight


@pytest.fixture
def pipeline(queue: Queue, database_url: str, settings_environment: dict[str, str]) -> Iterator[Pipeline]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Pipeline(queue, database_url, instance)
