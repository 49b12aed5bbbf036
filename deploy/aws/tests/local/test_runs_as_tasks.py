"""The daemon starts a run as an ECS task, by nothing but what its role allows; and the task's command does the run.

The code server, the daemon and the run's task are processes here, each with the command and the variables of its own
container; the endpoint's ECS keeps a record of tasks and, having no Docker, starts none.
"""

import json
import socket
import subprocess
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._grpc.client import DagsterGrpcClient

from conftest import SECONDS, SYNTHESISED, Deployed, rows, with_fingerprint
from loginpipe.common.settings import load_settings
from loginpipe.local.sample_events import sample_bodies
from loginpipe.sqs.client import open_queue
from loginpipe.sqs.sending import send_bodies
from metadata import ecs_of_a_task

CLUSTER = "loginpipe"
COUNT = "SELECT count(*) FROM user_logins"


def test_a_run_of_each_queue_becomes_a_task_that_does_it(prepared: Deployed, tmp_path: Path) -> None:
    outputs = prepared.outputs("LoginpipeData")
    before = rows(prepared, COUNT)[0][0]
    for number, output in enumerate(("QueueUrl", "QueueUrlPartners"), 1):
        queue = open_queue(outputs[output], load_settings(), connections=4)
        assert send_bodies(queue, sample_bodies(50 * number, seed=number + 1, bad_share=0)) == 50 * number
    ecs = boto3.client("ecs")
    own = ecs.list_tasks(cluster=CLUSTER, family="loginpipe-daemon")["taskArns"][0]
    with ecs_of_a_task(prepared.stack.endpoint_url, cluster=CLUSTER, task_arn=own) as seen:
        ports = {"loginpipe": free_port(), "partners": free_port()}
        ours, theirs = (
            ["dagster", "code-server", "start", "-h", "127.0.0.1", "-p", str(port), "-m", "loginpipe.definitions"]
            for port in ports.values()
        )
        look = ["dagster-daemon", "run", "-w", str(workspace_for(tmp_path, ports))]
        asks = {"ECS_CONTAINER_METADATA_URI_V4": seen.url, "AWS_ENDPOINT_URL_ECS": seen.url}
        with (
            prepared.task("codeserver").running(tmp_path / "code", ours),
            prepared.task("codeserver-partners").running(tmp_path / "code-partners", theirs),
        ):
            for port in ports.values():
                answers(port, tmp_path)
            with prepared.task("daemon").running(tmp_path / "daemon", look, **asks):
                tasks = {name: started(tmp_path, name) for name in ("run", "run-partners")}
        # What the task itself would read: the location of the other queue, at the address that it has in the VPC.
        assert "partners" in (tmp_path / "daemon" / "queues" / "workspace.yaml").read_text()
    assert set(seen.calls) == {"DescribeTaskDefinition", "DescribeTasks", "RunTask"}
    assert {f"ecs:{call}" for call in seen.calls} <= allowed_to_the_daemon()

    commands = {}
    for name, task in tasks.items():
        (override,) = task["overrides"]["containerOverrides"]
        assert override["name"] == name
        assert override["command"][:3] == ["dagster", "api", "execute_run"]
        commands[name] = override["command"]
    # At once: each waits a minute for more messages.
    with ThreadPoolExecutor() as threads:
        for done in threads.map(lambda name: finished(prepared, tmp_path / name, name, commands[name]), commands):
            assert done.returncode == 0, done.stdout + done.stderr
    # One warehouse.
    assert rows(prepared, COUNT) == [(before + 50 + 100,)]


def finished(prepared: Deployed, folder: Path, name: str, command: list[str]) -> "subprocess.CompletedProcess[str]":
    """Do what a task would, in a folder of its own."""
    folder.mkdir()
    return with_fingerprint(prepared, name).run(folder, command)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def workspace_for(folder: Path, ports: Mapping[str, int]) -> Path:
    workspace = [
        {"grpc_server": {"host": "127.0.0.1", "port": port, "location_name": name}} for name, port in ports.items()
    ]
    path = folder / "workspace.yaml"
    path.write_text(yaml.safe_dump({"load_from": workspace}))
    return path


def answers(port: int, folder: Path) -> None:
    """Wait until a code server does: a daemon that finds none asks again after five minutes."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        try:
            DagsterGrpcClient(host="127.0.0.1", port=port).ping("there")
        except DagsterUserCodeUnreachableError:
            time.sleep(0.2)
        else:
            return
    pytest.fail("".join((folder / part / "output").read_text()[-4000:] for part in ("code", "code-partners")))


def started(folder: Path, name: str) -> dict[str, Any]:
    """The task of a family that the daemon has started for a run of ingestion, as soon as there is one."""
    ecs = boto3.client("ecs")
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        arns = ecs.list_tasks(cluster=CLUSTER, family=f"loginpipe-{name}")["taskArns"]
        tasks = ecs.describe_tasks(cluster=CLUSTER, tasks=arns, include=["TAGS"])["tasks"] if arns else []
        for task in tasks:
            if {"key": "dagster/job_name", "value": "ingest_logins"} in task["tags"]:
                return task
        time.sleep(0.2)
    pytest.fail("".join((folder / part / "output").read_text()[-4000:] for part in ("code", "code-partners", "daemon")))


def allowed_to_the_daemon() -> set[str]:
    """The actions of the policy that the template gives the daemon's role."""
    body = json.loads((SYNTHESISED / "LoginpipeServices.template.json").read_text())
    (policy,) = [r for name, r in body["Resources"].items() if name.startswith("ServicesStartsRuns")]
    return {
        action
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]
        for action in ([statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"])
    }
