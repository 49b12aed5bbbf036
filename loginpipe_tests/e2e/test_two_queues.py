"""Two queues in one Dagster, set up as in docs/containers.md: one fails, and this does not affect the other."""

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
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._grpc.client import DagsterGrpcClient

from loginpipe.common.settings import load_settings
from loginpipe.local.environment import create_login_queue
from loginpipe.local.stack import LocalStack
from loginpipe.monitoring.reports import read_memory
from loginpipe.sqs.client import Queue, open_queue
from loginpipe.sqs.sending import send_bodies
from loginpipe_tests.conftest import Pipeline, execute
from loginpipe_tests.daemon import Daemon
from loginpipe_tests.e2e.project import ROOT, Project, eventually
from loginpipe_tests.wire import logins, users

OURS = "loginpipe"
THEIRS = "partners"
"""Names of the code locations; the second one is also a LOGINPIPE_ASSET_PREFIX."""

# Each step takes seconds, but it may take minutes on a busy machine.
DEADLINE = 180


@pytest.fixture
def partners(queue: Queue) -> Iterator[Queue]:
    """Yield the other queue, which has a dead letter."""
    client = boto3.client("sqs")
    name = f"partners-{uuid4().hex}"
    create_login_queue(client, name)
    client.send_message(QueueUrl=client.get_queue_url(QueueName=f"{name}-dlq")["QueueUrl"], MessageBody="{}")
    opened = open_queue(name, load_settings(), connections=4)
    yield opened
    client.delete_queue(QueueUrl=opened.url)


@pytest.fixture
def instance(stack: LocalStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """Yield the Dagster instance of both, with its own folder and database. Its tables already exist."""
    name = f"dagster_{uuid4().hex}"
    execute(stack.database_url, f"CREATE DATABASE {name}")
    url = stack.database_url.replace("/loginpipe?", f"/{name}?").replace("postgresql://", "postgresql+psycopg2://")
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", url)
    shutil.copy(ROOT / "dagster.yaml", tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        yield instance
    execute(stack.database_url, f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def running(folder: Path, log: str, environment: Mapping[str, str], *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Dagster program in a folder, with its own environment; its output goes to a file there."""
    program = Project(folder).command(command[0])
    with (folder / log).open("w") as output:
        # In its own process group: when a code server is killed, its child server and their runs stay.
        process = subprocess.Popen(
            [program, *command[1:]],
            cwd=folder,
            env=dict(environment),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            # Kill it at once, because a code server would wait a minute for the active run.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def answers(server: subprocess.Popen[bytes], socket: Path, log: Path) -> bool:
    """Return True if a code server has loaded its location."""
    assert server.poll() is None, log.read_text()[-3000:]
    try:
        return bool(DagsterGrpcClient(socket=str(socket)).ping("there"))
    except DagsterUserCodeUnreachableError:
        return False


@contextmanager
def running_dagster(folder: Path, environments: Mapping[str, Mapping[str, str]]) -> Iterator[None]:
    """Run a code server for each location, and one daemon for all of them.

    The daemon starts last. If a location does not answer at its start, the daemon retries for some seconds, and then
    only after five minutes.
    """
    # Sockets, because another program may take a port that was free a moment ago.
    sockets = {location: folder / f"{location}.sock" for location in environments}
    workspace = [
        {"grpc_server": {"socket": str(socket), "location_name": location}} for location, socket in sockets.items()
    ]
    (folder / "workspace.yaml").write_text(yaml.safe_dump({"load_from": workspace}))
    start = ("dagster", "code-server", "start", "-m", "loginpipe.definitions", "-s")
    with ExitStack() as programs:
        servers = {
            location: programs.enter_context(running(folder, f"{location}.log", environment, *start, str(socket)))
            for (location, environment), socket in zip(environments.items(), sockets.values(), strict=True)
        }
        for location, server in servers.items():
            log = folder / f"{location}.log"
            eventually(
                lambda server=server, socket=sockets[location], log=log: answers(server, socket, log),
                seconds=DEADLINE,
                what=f"the code server answers, see {log}",
            )
        programs.enter_context(running(folder, "daemon.log", environments[OURS], "dagster-daemon", "run"))
        yield


def test_a_queue_whose_database_refuses_it_does_not_touch_the_other_one(
    pipeline: Pipeline,
    partners: Queue,
    instance: dg.DagsterInstance,
    settings_environment: dict[str, str],
    tmp_path: Path,
) -> None:
    ours = {
        **Project(tmp_path).environment(),
        **{name: value for name, value in os.environ.items() if name.startswith(("AWS_", "DAGSTER_"))},
        **settings_environment,
        "DAGSTER_HOME": str(tmp_path),
    }
    theirs = {
        **ours,
        "LOGINPIPE_QUEUE": partners.name,
        "LOGINPIPE_DATABASE_URL": pipeline.database_url.replace("//postgres:@", "//not_a_role:@"),
        "LOGINPIPE_ASSET_PREFIX": THEIRS,
    }
    send_bodies(partners, logins(3))
    pipeline.send(logins(3))
    with running_dagster(tmp_path, {OURS: ours, THEIRS: theirs}):
        eventually(lambda: users(pipeline) == [f"user-{i}" for i in range(3)], seconds=DEADLINE, what="logins stored")
        eventually(lambda: ended(instance, partners) == {"FAILURE"}, seconds=DEADLINE, what="their run failed")
        eventually(lambda: None not in found(instance), seconds=DEADLINE, what="dead letters of both reported")
        eventually(
            lambda: any("backing off after" in reason for reason in skipped(instance, THEIRS)),
            seconds=DEADLINE,
            what="their sensor backs off",
        )

        # After their failure our pipeline continues, with the active run or with a new one.
        pipeline.send(logins(5)[3:])
        eventually(lambda: users(pipeline) == [f"user-{i}" for i in range(5)], seconds=DEADLINE, what="more stored")
        assert ended(instance, pipeline.queue) <= {"SUCCESS"}
        assert found(instance) == [True, False], "each has a check of its own"
        monitor = Daemon(Pipeline(pipeline.queue, pipeline.database_url, instance))
        said = monitor.tick(2)
        assert read_memory(monitor.cursor).alerts.episodes == {}, said
        assert not [reason for reason in skipped(instance, OURS) if "backing off" in reason]
    assert "multiple code locations" not in (tmp_path / "daemon.log").read_text()


def ended(instance: dg.DagsterInstance, queue: Queue) -> set[str]:
    """Return the statuses of a queue's finished runs."""
    runs = instance.get_runs(dg.RunsFilter(tags={"loginpipe/queue": queue.name}))
    return {run.status.value for run in runs if run.is_finished}


def found(instance: dg.DagsterInstance) -> list[bool | None]:
    """Return whether no_dead_letters passed at its last evaluation, for our queue and for theirs; None if never run."""
    paths = (["raw_sqs_messages"], [THEIRS, "raw_sqs_messages"])
    checks = [dg.AssetCheckKey(dg.AssetKey(path), "no_dead_letters") for path in paths]
    summaries = instance.event_log_storage.get_asset_check_summary_records(checks)
    records = [summaries[check].last_completed_check_execution_record for check in checks]
    return [record.evaluation.passed if record and record.evaluation else None for record in records]


def skipped(instance: dg.DagsterInstance, location: str) -> list[str]:
    """Return why ticks of a location's queue_depth_sensor started no run."""
    (state,) = [
        state
        for state in instance.all_instigator_state()
        if state.instigator_name == "queue_depth_sensor"
        and state.origin.repository_origin.code_location_origin.location_name == location
    ]
    ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id)
    return [tick.tick_data.skip_reason for tick in ticks if tick.tick_data.skip_reason]
