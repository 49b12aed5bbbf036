"""The values of an environment: what is said of those that are missing or wrong, and what can be deployed by then."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import aws_cdk as cdk
import pytest
import yaml

from conftest import AWS, EXAMPLE, STACKS, run_app
from loginpipe_aws import environments
from loginpipe_aws.context import NAMES, SETTINGS, ContextError, foundation, release

QUEUES = (
    "must be a list of objects with a name (2 to 20 small letters and digits, a letter first; not login or loginpipe), "
    "sender_arns (ARNs of IAM roles or users), and max_runs from 1 to 8 or none"
)
NAMES_OF = {
    "AWS::CloudWatch::Dashboard": "DashboardName",
    "AWS::ECR::Repository": "RepositoryName",
    "AWS::ECS::Cluster": "ClusterName",
    "AWS::ECS::TaskDefinition": "Family",
    "AWS::IAM::Role": "RoleName",
    "AWS::KMS::Alias": "AliasName",
    "AWS::Logs::LogGroup": "LogGroupName",
    "AWS::RDS::DBInstance": "DBInstanceIdentifier",
    "AWS::SNS::Topic": "TopicName",
    "AWS::SQS::Queue": "QueueName",
    "AWS::SecretsManager::Secret": "Name",
    "AWS::ServiceDiscovery::PrivateDnsNamespace": "Name",
}
"""Type → the property with a name that exists once in an account and region."""
ENVIRONMENTS = sorted(path.stem for path in (AWS / "environments").glob("*.json"))


def stacks(folder: Path) -> set[str]:
    return {path.name.split(".")[0] for path in folder.glob("*.template.json")}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_with_the_values_that_an_environment_begins_with_the_data_can_be_deployed(
    tmp_path: Path, environment: str
) -> None:
    done = run_app(tmp_path / "out", environment=environment)
    assert done.returncode == 0, done.stderr
    assert stacks(tmp_path / "out") == {"LoginpipeData"}
    assert (
        f"LoginpipeSetup and LoginpipeServices are left out: context value image_tag is not set: set it in "
        f"environments/{environment}.json"
    ) in done.stderr
    data = json.loads((tmp_path / "out" / "LoginpipeData.template.json").read_text())["Resources"]
    (database,) = [each["Properties"] for each in data.values() if each["Type"] == "AWS::RDS::DBInstance"]
    # What comes with its size.
    assert not {"StorageThroughput", "Iops"} & set(database)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_environment_has_every_value_that_the_readme_explains(environment: str) -> None:
    values = json.loads((AWS / "environments" / f"{environment}.json").read_text())
    (table,) = re.findall(
        r"^## Values$.*?(^\| value .*?)\n\n", (AWS / "README.md").read_text(), re.DOTALL | re.MULTILINE
    )
    explained = [name for line in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", line.split("|")[1])]
    # The settings are in a table of their own, docs/settings.md; this one decides here what is deployed.
    assert sorted(values) == sorted(NAMES)
    assert sorted(explained) == sorted(NAMES - SETTINGS.keys() | {"consumer"})


def test_two_environments_have_different_networks_so_that_both_can_be_joined_to_one() -> None:
    networks = [json.loads((AWS / "environments" / f"{name}.json").read_text())["vpc_cidr"] for name in ENVIRONMENTS]
    assert len(set(networks)) == len(networks)


def test_what_is_given_on_the_command_line_stands_in_the_place_of_the_files_value(tmp_path: Path) -> None:
    given = {"image_tag": "2.0.0", "installation": "acme"}
    done = run_app(tmp_path / "out", **{**json.loads(EXAMPLE.read_text()), **given})
    assert done.returncode == 0, done.stderr
    assert ":2.0.0" in (tmp_path / "out" / "LoginpipeSetup.template.json").read_text()
    # A second installation in the same account and region finds no name taken.
    resources = [
        resource
        for stack in STACKS
        for resource in json.loads((tmp_path / "out" / f"{stack}.template.json").read_text())["Resources"].values()
    ]
    for kind, key in NAMES_OF.items():
        named = [each["Properties"][key] for each in resources if each["Type"] == kind and key in each["Properties"]]
        assert named, kind
        assert [name for name in named if "acme" not in name] == [], kind


@pytest.mark.parametrize(
    ("environment", "rule"),
    [
        (None, "no environment is chosen: give --context environment=NAME, one of production, staging"),
        ("", "no environment is chosen: give --context environment=NAME, one of production, staging"),
        ("qa", "there is no environments/qa.json: choose one of production, staging, or make it as a copy of one"),
        ("../cdk", "context value environment must be one of production, staging"),
    ],
    ids=["none", "empty", "unknown", "elsewhere"],
)
def test_an_environment_that_is_not_there_stops_it_with_one_line_that_says_what_to_do(
    tmp_path: Path, environment: str | None, rule: str
) -> None:
    done = run_app(tmp_path / "out", environment=environment)
    assert done.returncode == 1
    assert lines(done) == [rule]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("[]", "is not a JSON object: fix it"),
        ("{", "is not a JSON object: fix it"),
        ('{"regoin": "x"}', "has what nothing reads: regoin; README.md lists the values there are"),
    ],
    ids=["a list", "half a file", "a slip of the pen"],
)
def test_a_file_that_is_not_as_it_should_be_is_named_with_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, rule: str
) -> None:
    monkeypatch.setattr(environments, "FOLDER", tmp_path)
    (tmp_path / "qa.json").write_text(text)
    with pytest.raises(ContextError) as caught:
        environments.read_environment(cdk.App(context={"environment": "qa"}).node)
    assert str(caught.value) == f"environments/qa.json {rule}"


def test_the_files_are_for_what_differs_and_cdk_json_is_for_what_does_not() -> None:
    common = json.loads((AWS / "cdk.json").read_text())["context"]
    assert not NAMES & set(common)
    assert all(name.startswith("@aws-cdk/") for name in common)


def test_no_more_runs_can_be_asked_for_than_dagster_lets_be_on_one_queue(tmp_path: Path) -> None:
    limits = yaml.safe_load((AWS / "dagster.yaml").read_text())["concurrency"]["runs"]["tag_concurrency_limits"]
    (limit,) = [each["limit"] for each in limits if each["key"] == "loginpipe/queue"]
    context = json.loads(EXAMPLE.read_text())
    done = run_app(tmp_path / "out", **{**context, "max_runs": limit + 1})
    assert f"context value max_runs must be a whole number from 1 to {limit}" in done.stderr
    assert run_app(tmp_path / "most", **{**context, "max_runs": limit}).stderr.count("left out") == 0


def test_without_a_way_in_for_people_the_one_off_tasks_can_be_deployed(tmp_path: Path) -> None:
    context = {**json.loads(EXAMPLE.read_text()), "web_networks": []}
    done = run_app(tmp_path / "out", **context)
    assert stacks(tmp_path / "out") == {"LoginpipeData", "LoginpipeSetup"}
    assert "LoginpipeServices is left out: context value web_networks is empty" in done.stderr


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("region", "Frankfurt", "must be a region, as in eu-central-1"),
        ("vpc_cidr", "8.8.0.0/16", "must be private IPv4 networks: nothing here is for the internet"),
        ("database_networks", ["0.0.0.0/0"], "must be private IPv4 networks: nothing here is for the internet"),
        ("database_networks", ["10.0.0.1/16"], "must be private networks, as in 10.0.0.0/16"),
        ("sender_arns", ["*"], "must be a list of ARNs of IAM roles or users"),
        ("queues", 2 * [{"name": "partners"}], "must have names that differ from each other and from asset_prefix"),
        ("queues", [{"name": "login"}], QUEUES),
        ("queues", [{"name": "partners", "max_runs": 9}], QUEUES),
        ("queues", [{"name": "partners", "sender_arns": ["*"]}], QUEUES),
        ("queues", "partners", QUEUES),
        ("database_connections", 10, "must be a whole number from 50 to 5000"),
        ("database_storage_most_gib", 100, "must be a whole number from 101 to 65536"),
        ("read_replica", "perhaps", "must be true or false"),
        ("alert_email", "nobody", "must be an address"),
        ("image_reader_arns", ["arn:aws:iam::444455556666:root"], "must be a list of ARNs of IAM roles or users"),
        ("installation", "Acme-1", "must be 2 to 20 small letters and digits, a letter first"),
        ("auditor_principal_arns", ["arn:aws:iam::1:role/a"], "must be a list of ARNs of IAM roles or users"),
        ("database_storage_throughput", 499, "must be a whole number from 500 to 4000"),
        (
            "database_storage_throughput",
            1000,
            "takes database_storage_gib of 400 or more: raise that, or leave database_storage_throughput empty",
        ),
    ],
    ids=[
        "region", "vpc", "everybody", "host bits", "any sender", "one queue twice", "the login queue", "too many runs",
        "any sender of a queue", "no list of queues", "connections", "storage", "flag", "address",
        "a whole account", "installation", "any auditor", "throughput", "throughput of small storage",
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_the_rule(name: str, value: Any, rule: str) -> None:
    values = {**json.loads((AWS / "environments" / "production.json").read_text()), name: value}
    with pytest.raises(ContextError) as caught:
        foundation(cdk.App(context=values).node)
    assert str(caught.value) == f"context value {name} {rule}"


def test_a_wrong_value_stops_the_app_with_one_line(tmp_path: Path) -> None:
    done = run_app(tmp_path / "out", read_replica="perhaps")
    assert done.returncode == 1
    assert lines(done) == ["context value read_replica must be true or false"]


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"batch_messages": 120_001}, "batch_messages must be a whole number from 1 to 120000"),
        ({"linger_seconds": 61}, "linger_seconds must be a whole number from 0 to 60"),
        ({"run_seconds": 0}, "run_seconds must be a whole number from 60 to 43200"),
        ({"receivers": 65}, "receivers must be a whole number from 1 to 64"),
        ({"max_runs": 0}, "max_runs must be a whole number from 1 to 8"),
        ({"envelope": "sqs"}, "envelope must be one of none, sns, eventbridge"),
        ({"max_reject_rate": 1.5}, "max_reject_rate must be a share from 0 to 1, as in 0.05"),
        ({"table": "logins"}, "table must be SCHEMA.user_logins, as in analytics.user_logins"),
        ({"extra_fields": ["a,b"]}, "extra_fields must be a list of texts without commas"),
        ({"compat_salt": "loginpipe/salt"}, "compat_salt must be the full ARN of a secret"),
        ({"run_cpu": 1000}, "run_cpu must be one of 256, 512, 1024, 2048, 4096, 8192, 16384"),
        ({"run_memory_mib": 2000}, "run_memory_mib must be 4096 to 16384 with run_cpu 2048, in steps of 1024"),
        ({"run_memory_mib": 3000}, "run_memory_mib must be 4096 to 16384 with run_cpu 2048, in steps of 1024"),
        (
            {"run_cpu": 8192, "run_memory_mib": 20_000},
            "run_memory_mib must be 16384 to 61440 with run_cpu 8192, in steps of 4096",
        ),
    ],
    ids=[
        "messages", "linger", "seconds", "receivers", "runs", "envelope", "share", "table", "list", "salt", "cpu",
        "too little", "between", "steps of 4 GiB",
    ],
)  # fmt: skip
def test_a_wrong_value_of_the_runs_is_named_with_the_rule(values: dict[str, int], rule: str) -> None:
    with pytest.raises(ContextError) as caught:
        release(cdk.App(context={**json.loads(EXAMPLE.read_text()), **values}).node)
    assert str(caught.value) == f"context value {rule}"


def lines(done: "subprocess.CompletedProcess[str]") -> list[str]:
    return [line for line in done.stderr.splitlines() if "!!" not in line]
