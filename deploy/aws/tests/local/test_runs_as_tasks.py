"""The daemon starts a run as an ECS task, by nothing but what its role allows; and the task's command does the run.

The code server, the daemon and the run's task are processes here, each with the command and the variables of its own
container; the endpoint's ECS keeps the books of tasks and, having no Docker, starts none.
"""

import json
import socket
import time
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from conftest import AWS, SECONDS, SYNTHESISED, Deployed, rows, with_fingerprint
from loginpipe.common.settings import load_settings
from loginpipe.local.sample_events import sample_bodies
from loginpipe.sqs.client import open_queue
from loginpipe.sqs.sending import send_bodies
from metadata import ecs_of_a_task

CLUSTER = "loginpipe"
COUNT = "SELECT count(*) FROM user_logins"


def test_a_run_becomes_a_task_that_does_it(prepared: Deployed, tmp_path: Path) -> None:
    queue = open_queue(prepared.outputs("LoginpipeData")["QueueUrl"], load_settings(), connections=4)
    before = rows(prepared, COUNT)[0][0]
    assert send_bodies(queue, sample_bodies(50, seed=2, bad_share=0)) == 50
    ecs = boto3.client("ecs")
    own = ecs.list_tasks(cluster=CLUSTER, family="loginpipe-daemon")["taskArns"][0]
    with ecs_of_a_task(prepared.stack.endpoint_url, cluster=CLUSTER, task_arn=own) as seen:
        port = free_port()
        serve = ["dagster", "code-server", "start", "-h", "127.0.0.1", "-p", str(port), "-m", "loginpipe.definitions"]
        look = ["dagster-daemon", "run", "-w", str(workspace_for(tmp_path, port))]
        asks = {"ECS_CONTAINER_METADATA_URI_V4": seen.url, "AWS_ENDPOINT_URL_ECS": seen.url}
        with (
            prepared.task("codeserver").running(tmp_path / "code", serve),
            prepared.task("daemon").running(tmp_path / "daemon", look, **asks),
        ):
            task = started(tmp_path)
    assert set(seen.calls) == {"DescribeTaskDefinition", "DescribeTasks", "RunTask"}
    assert {f"ecs:{call}" for call in seen.calls} <= allowed_to_the_daemon()

    (override,) = task["overrides"]["containerOverrides"]
    assert override["name"] == "run"
    assert override["command"][:3] == ["dagster", "api", "execute_run"]
    run = with_fingerprint(prepared)
    done = run.run(tmp_path, override["command"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert rows(prepared, COUNT) == [(before + 50,)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def workspace_for(folder: Path, port: int) -> Path:
    workspace = yaml.safe_load((AWS / "workspace.yaml").read_text())
    workspace["load_from"][0]["grpc_server"] |= {"host": "127.0.0.1", "port": port}
    path = folder / "workspace.yaml"
    path.write_text(yaml.safe_dump(workspace))
    return path


def started(folder: Path) -> dict[str, Any]:
    """The task that the daemon has started for a run of ingestion, as soon as there is one."""
    ecs = boto3.client("ecs")
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        arns = ecs.list_tasks(cluster=CLUSTER, family="loginpipe-run")["taskArns"]
        tasks = ecs.describe_tasks(cluster=CLUSTER, tasks=arns, include=["TAGS"])["tasks"] if arns else []
        for task in tasks:
            if {"key": "dagster/job_name", "value": "ingest_logins"} in task["tags"]:
                return task
        time.sleep(0.2)
    pytest.fail("".join((folder / part / "output").read_text()[-4000:] for part in ("code", "daemon")))


def allowed_to_the_daemon() -> set[str]:
    """The actions of the policy that the template gives the daemon's role."""
    body = json.loads((SYNTHESISED / "LoginpipeServices.template.json").read_text())
    (policy,) = [r for name, r in body["Resources"].items() if name.startswith("ServicesStartsRuns")]
    return {
        action
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]
        for action in ([statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"])
    }
