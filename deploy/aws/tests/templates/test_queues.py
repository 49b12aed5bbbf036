"""Further queues: what each has of its own, what all share, and that a queue more changes nothing of those before."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import aws_cdk as cdk
import pytest
import yaml
from test_services import containers, environment

from conftest import AWS, EXAMPLE, STACKS, run_app
from iam import ACCOUNT, Account, allowed
from loginpipe_aws.quotas import vcpus

# What one more queue adds to, or takes a larger number from.
SHARED = {"AWS::ECS::TaskDefinition", "AWS::ECS::Service", "AWS::Events::Rule", "AWS::CloudWatch::Dashboard",
          "AWS::IAM::Policy", "AWS::KMS::Key"}  # fmt: skip


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Stack → its template, with the login queue alone."""
    folder = tmp_path_factory.mktemp("single") / "out"
    done = run_app(folder, **{**json.loads(EXAMPLE.read_text()), "queues": []})
    assert done.returncode == 0, done.stderr
    return {name: json.loads((folder / f"{name}.template.json").read_text()) for name in STACKS}


def test_one_more_queue_renames_and_replaces_nothing(
    without: dict[str, dict[str, Any]], bodies: dict[str, dict[str, Any]]
) -> None:
    for stack in STACKS:
        before, after = without[stack]["Resources"], bodies[stack]["Resources"]
        assert before.keys() <= after.keys()
        changed = {before[name]["Type"] for name in before if _lasting(before[name]) != _lasting(after[name])}
        assert changed <= SHARED, stack
        assert all("Partners" in name for name in after.keys() - before.keys())
    assert "artners" not in json.dumps(without)


def test_a_queue_has_its_own_dead_letters_senders_and_alarms(account: Account) -> None:
    logins = account.one("AWS::SQS::Queue", "QueuePartnersLogins")
    dead = account.one("AWS::SQS::Queue", "QueuePartnersDeadLetters")
    assert [queue.properties["QueueName"] for queue in (logins, dead)] == [
        "loginpipe-partners-queue", "loginpipe-partners-queue-dlq",
    ]  # fmt: skip
    assert logins.properties["RedrivePolicy"]["deadLetterTargetArn"] == account.arn(dead)
    assert dead.properties["RedriveAllowPolicy"]["sourceQueueArns"][0].endswith(":loginpipe-partners-queue")
    senders = {}
    for queue in ("QueueLogins", "QueuePartnersLogins"):
        policy = account.one("AWS::SQS::QueuePolicy", queue).properties["PolicyDocument"]["Statement"]
        (lets,) = [statement for statement in policy if statement["Effect"] == "Allow"]
        senders[queue] = lets["Principal"]["AWS"].rpartition("/")[2]
    assert senders == {"QueueLogins": "app-backend", "QueuePartnersLogins": "partner-gateway"}
    key = account.one("AWS::KMS::Key", "KeysQueue")
    for sender in senders.values():
        for action in ("kms:GenerateDataKey", "kms:Decrypt"):
            arn = f"arn:aws:iam::{ACCOUNT}:role/{sender}"
            assert allowed([], arn, action, account.arn(key), key.properties["KeyPolicy"]["Statement"])
    watched = {
        (alarm.properties["MetricName"], dimension["Value"].partition(".")[0])
        for alarm in account.of("AWS::CloudWatch::Alarm")
        for dimension in alarm.properties["Dimensions"]
        if dimension["Name"] == "QueueName"
    }
    assert len(watched) == 6
    assert ("ApproximateNumberOfMessagesVisible", dead.name) in watched
    told = [alarm.properties["AlarmDescription"] for alarm in account.of("AWS::CloudWatch::Alarm")]
    assert "loginpipe, partners, logins wait: nothing-arrives" in told
    assert {"loginpipe, no CodeServerPartners runs", "loginpipe, no MetricsPartners runs"} <= set(told)


@pytest.mark.parametrize("part", ["run", "codeserver", "metrics", "redrive"])
def test_what_each_queue_has_of_its_own_differs_in_the_queue_and_the_name_and_shares_the_rest(
    account: Account, part: str
) -> None:
    ours, theirs = (environment(containers(account)[f"{part}{queue}"]) for queue in ("", "-partners"))
    assert {name for name in theirs if theirs[name] != ours.get(name)} - {"DAGSTER_CONTAINER_CONTEXT"} == {
        "LOGINPIPE_QUEUE", "LOGINPIPE_ASSET_PREFIX", "LOGINPIPE_MAX_RUNS",
    }  # fmt: skip
    assert theirs["LOGINPIPE_QUEUE"].startswith("QueuePartnersLogins")
    assert theirs["LOGINPIPE_ASSET_PREFIX"] == "partners"
    tasks = {task.properties["Family"]: task.properties for task in account.of("AWS::ECS::TaskDefinition")}
    assert tasks[f"loginpipe-{part}-partners"]["TaskRoleArn"] == tasks[f"loginpipe-{part}"]["TaskRoleArn"]


def test_the_tasks_of_all_queues_may_work_all_queues_and_no_others_may(account: Account) -> None:
    for action in ("ReceiveMessage", "DeleteMessage", "SendMessage", "GetQueueAttributes"):
        for queue in ("Logins", "DeadLetters"):
            of_each = [
                account.who_may(f"sqs:{action}", account.one("AWS::SQS::Queue", f"Queue{name}{queue}"))
                for name in ("", "Partners")
            ]
            assert of_each[0] == of_each[1], (action, queue)


def test_daemon_and_web_servers_find_each_code_server_which_names_the_task_of_its_runs(
    account: Account, tmp_path: Path
) -> None:
    known = {service.properties["Name"] for service in account.of("AWS::ServiceDiscovery::Service")}
    assert known == {"code-server", "code-server-partners"}
    for part in ("daemon", "webserver"):
        container = containers(account)[part]
        assert container["Command"][-4:-2] == ["-w", "/tmp/queues/workspace.yaml"]
        (location,) = home(container, tmp_path)["workspace"]["load_from"]
        assert location["grpc_server"] == {
            "host": "code-server-partners.loginpipe.internal", "port": 4000, "location_name": "partners",
        }  # fmt: skip
    run = account.one("AWS::ECS::TaskDefinition", "ServicesQueuePartnersRun")
    context = json.loads(environment(containers(account)["codeserver-partners"])["DAGSTER_CONTAINER_CONTEXT"])
    assert context == {"ecs": {"task_definition_arn": account.arn(run), "container_name": "run-partners"}}
    assert "DAGSTER_CONTAINER_CONTEXT" not in environment(containers(account)["codeserver"])


def test_there_is_room_for_the_runs_of_every_queue_and_for_the_other_jobs(account: Account, tmp_path: Path) -> None:
    runs = yaml.safe_load((AWS / "dagster.yaml").read_text())["concurrency"]["runs"]["tag_concurrency_limits"]
    of_queue, others = (
        min(limit["limit"] for limit in runs if limit["key"] == key and limit.get("value", {}) == value)
        for key, value in (
            ("loginpipe/queue", {"applyLimitPerUniqueValue": True}),
            ("loginpipe/downstream", {}),
        )
    )
    for part in ("daemon", "webserver"):
        made = home(containers(account)[part], tmp_path)["dagster"]
        project = yaml.safe_load((AWS / "dagster.yaml").read_text())
        assert project["concurrency"]["runs"].pop("max_concurrent_runs") == of_queue + others
        assert made["concurrency"]["runs"].pop("max_concurrent_runs") == 2 * of_queue + others
        assert made == project


def home(container: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What the container's entry point makes before its command begins: file → its content."""
    told = {"PATH": os.environ["PATH"], "PGPASSFILE": str(folder / ".pgpass"), "DAGSTER_HOME": str(AWS)}
    passwords = {secret["Name"]: "word" for secret in container["Secrets"]}
    subprocess.run([*container["EntryPoint"], "sh", "-c", 'test "$DAGSTER_HOME" = "$0"', folder / "queues"],
                   env=told | passwords, check=True)  # fmt: skip
    return {name: yaml.safe_load((folder / "queues" / f"{name}.yaml").read_text()) for name in ("workspace", "dagster")}


@pytest.mark.parametrize("bad", ["", "QueueLogins", "QueuePartnersLogins"])
def test_the_check_of_a_release_asks_every_queue_and_fails_if_one_of_them_does(
    account: Account, tmp_path: Path, bad: str
) -> None:
    check = containers(account)["check"]
    (tmp_path / "loginpipe").write_text(
        '#!/bin/sh\necho "$1 $LOGINPIPE_QUEUE ${LOGINPIPE_ASSET_PREFIX:-}"\n'
        f'case "$LOGINPIPE_QUEUE" in "{bad or "none"}"*) exit 1;; esac\n'
    )
    (tmp_path / "loginpipe").chmod(0o755)
    told = {"PATH": f"{tmp_path}:{os.environ['PATH']}", **environment(check)}
    done = subprocess.run(check["Command"], env=told, capture_output=True, text=True, check=False)
    assert [re.sub(r"Logins\S*", "", line) for line in done.stdout.splitlines()] == [
        "doctor Queue acme", "doctor QueuePartners partners",
    ]  # fmt: skip
    assert done.returncode == bool(bad), done.stderr


def test_the_quotas_count_services_and_runs_of_every_queue() -> None:
    def taken(**values: Any) -> float:
        return vcpus(cdk.App(context=values))

    # Code server and metrics; the code server again while it is replaced; runs with their successors, each half a core.
    assert taken(queues=[{"name": "partners", "max_runs": 2}]) == taken() + 0.5 + 0.25 + 0.5 + 2 * 2 * 0.5
    assert taken(queues=[{"name": "partners"}]) == taken() + 0.5 + 0.25 + 0.5 + 2 * 3 * 0.5


def _lasting(resource: dict[str, Any]) -> dict[str, Any]:
    """A resource without what only says in which order things are made."""
    return {name: value for name, value in resource.items() if name != "DependsOn"}
