"""Two queues in one Dagster, as docs/containers.md sets them up: one fails, and the other does not notice."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

import boto3
import dagster as dg
import pytest
import yaml
from dagster import AssetCheckKey, AssetKey
from dagster_postgres import DagsterPostgresStorage

from loginpipe.common.settings import load_settings
from loginpipe.local.prepare import create_login_queue
from loginpipe.local.stack import LocalStack
from loginpipe.monitoring.reports import read_memory
from loginpipe.sqs.client import Queue, open_queue
from loginpipe.sqs.sending import send_bodies
from loginpipe_tests.conftest import Pipeline, execute
from loginpipe_tests.daemon import Daemon
from loginpipe_tests.e2e.project import ROOT, Project, eventually, free_port
from loginpipe_tests.wire import logins, users

PREFIX = "partners"


@pytest.fixture
def storage_url(stack: LocalStack) -> Iterator[str]:
    """A database for Dagster's storage."""
    name = f"dagster_{uuid4().hex}"
    execute(stack.database_url, f"CREATE DATABASE {name}")
    yield stack.database_url.replace("/loginpipe?", f"/{name}?").replace("postgresql://", "postgresql+psycopg2://")
    execute(stack.database_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def partners(queue: Queue) -> Iterator[Queue]:
    """The other queue, which has a dead letter."""
    client = boto3.client("sqs")
    name = f"partners-{uuid4().hex}"
    create_login_queue(client, name)
    client.send_message(QueueUrl=client.get_queue_url(QueueName=f"{name}-dlq")["QueueUrl"], MessageBody="{}")
    opened = open_queue(name, load_settings(), connections=4)
    yield opened
    client.delete_queue(QueueUrl=opened.url)


@contextmanager
def running(folder: Path, log: str, environment: Mapping[str, str], *command: str) -> Iterator[None]:
    """A Dagster program in a folder, with an environment of its own; its output is in a file there."""
    program = Project(folder).command(command[0])
    with (folder / log).open("w") as output:
        # A group of its own: a code server that is killed leaves its server and the runs of that behind.
        process = subprocess.Popen(
            [program, *command[1:]],
            cwd=folder,
            env=dict(environment),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield
        finally:
            # At once: a code server waits a minute for the run that is active.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_a_queue_whose_database_refuses_it_does_not_touch_the_other_one(  # noqa: PLR0917
    pipeline: Pipeline,
    partners: Queue,
    storage_url: str,
    settings_environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", storage_url)
    shutil.copy(ROOT / "dagster.yaml", tmp_path)
    (tmp_path / "home").mkdir()
    ours = {
        **Project(tmp_path).environment(),
        **{name: value for name, value in os.environ.items() if name.startswith("AWS_")},
        **settings_environment,
        "DAGSTER_HOME": str(tmp_path),
        "DAGSTER_POSTGRES_URL": storage_url,
    }
    theirs = {
        **ours,
        "LOGINPIPE_QUEUE": partners.name,
        "LOGINPIPE_DATABASE_URL": pipeline.database_url.replace("//postgres:@", "//not_a_role:@"),
        "LOGINPIPE_ASSET_PREFIX": PREFIX,
    }
    ports = {"loginpipe": free_port(), PREFIX: free_port()}
    servers = [
        {"grpc_server": {"host": "127.0.0.1", "port": port, "location_name": name}} for name, port in ports.items()
    ]
    (tmp_path / "workspace.yaml").write_text(yaml.safe_dump({"load_from": servers}))
    server = ("dagster", "code-server", "start", "-h", "127.0.0.1", "-m", "loginpipe.definitions", "-p")

    send_bodies(partners, logins(3))
    pipeline.send(logins(3))
    with ExitStack() as programs:
        programs.enter_context(running(tmp_path, "ours.log", ours, *server, str(ports["loginpipe"])))
        programs.enter_context(running(tmp_path, "theirs.log", theirs, *server, str(ports[PREFIX])))
        programs.enter_context(running(tmp_path, "daemon.log", ours, "dagster-daemon", "run"))
        eventually(lambda: users(pipeline) == [f"user-{i}" for i in range(3)], seconds=90, what="our logins stored")
        storage = opened_storage(storage_url)
        eventually(lambda: ended(storage, partners) == {"FAILURE"}, seconds=60, what="their run failed")
        checks = [AssetCheckKey(AssetKey(path), "no_dead_letters") for path in (RAW, [PREFIX, *RAW])]
        eventually(lambda: None not in found(storage, checks), seconds=60, what="both queues' dead letters reported")

        # After their failure ours go on at once, with the run that is active.
        pipeline.send(logins(5)[3:])
        eventually(lambda: users(pipeline) == [f"user-{i}" for i in range(5)], seconds=30, what="more of ours stored")
        assert ended(storage, pipeline.queue) <= {"SUCCESS"}
        assert found(storage, checks) == [True, False], "each has a check of its own"

        instance = programs.enter_context(dg.DagsterInstance.from_config(str(tmp_path)))
        monitor = Daemon(Pipeline(pipeline.queue, pipeline.database_url, instance))
        said = monitor.tick(2)
        assert read_memory(monitor.cursor).alerts.episodes == {}, said
        ticks = ours_of(instance, "queue_depth_sensor", "loginpipe")
        assert ticks
        assert not [reason for reason in ticks if "backing off" in reason]
        eventually(
            lambda: any("backing off after 1 failed" in why for why in ours_of(instance, "queue_depth_sensor", PREFIX)),
            seconds=60,
            what="their sensor backs off",
        )
    assert "multiple code locations" not in (tmp_path / "daemon.log").read_text()


RAW = ["raw_sqs_messages"]


def opened_storage(url: str) -> DagsterPostgresStorage:
    storage = DagsterPostgresStorage(url, should_autocreate_tables=False)
    return storage


def ended(storage: DagsterPostgresStorage, queue: Queue) -> set[str]:
    """How the runs of a queue ended that did."""
    records = storage.run_storage.get_run_records(dg.RunsFilter(tags={"loginpipe/queue": queue.name}))
    return {record.dagster_run.status.value for record in records if record.dagster_run.is_finished}


def found(storage: DagsterPostgresStorage, checks: list[AssetCheckKey]) -> list[bool | None]:
    """Whether each check passed when it was last evaluated."""
    summaries = storage.event_log_storage.get_asset_check_summary_records(checks)
    records = [summaries[key].last_completed_check_execution_record for key in checks]
    return [record.evaluation.passed if record and record.evaluation else None for record in records]


def ours_of(instance: dg.DagsterInstance, sensor: str, location: str) -> list[str]:
    """Why each tick of a location's sensor started no run, as far as it did not."""
    (state,) = [
        state
        for state in instance.all_instigator_state()
        if state.instigator_name == sensor
        and state.origin.repository_origin.code_location_origin.location_name == location
    ]
    ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id)
    return [tick.tick_data.skip_reason or "" for tick in ticks]
