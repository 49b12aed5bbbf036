"""AWS Lambda as the consumer: what the function may do and is told, its mapping, its alarms, and the scanners."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from conftest import AWS, EXAMPLE, STACKS, run_app
from iam import Account
from loginpipe_aws.function import EXCEPTIONS, max_concurrency

SCRIPTS = Path(sys.executable).parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The templates of an installation in which Lambda consumes."""
    out = tmp_path_factory.mktemp("function") / "out"
    done = run_app(out, **{**json.loads(EXAMPLE.read_text()), "consumer": "lambda", "installation": "acme"})
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def account(folder: Path) -> Account:
    return Account({name: json.loads((folder / f"{name}.template.json").read_text()) for name in STACKS})


def function(account: Account) -> Mapping[str, Any]:
    (found,) = [each for each in account.of("AWS::Lambda::Function") if "ImageUri" in each.properties["Code"]]
    return found.properties


def test_each_queue_calls_the_function_with_full_batches_and_takes_back_what_failed(account: Account) -> None:
    mapping, other = [each.properties for each in account.of("AWS::Lambda::EventSourceMapping")]
    assert other == {**mapping, "EventSourceArn": account.arn(account.one("AWS::SQS::Queue", "QueuePartnersLogins"))}
    queue = account.one("AWS::SQS::Queue", "QueueLogins")
    assert mapping["EventSourceArn"] == account.arn(queue)
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert (mapping["BatchSize"], mapping["MaximumBatchingWindowInSeconds"]) == (10_000, 1)
    connections = account.of("AWS::RDS::DBParameterGroup")[0].properties["Parameters"]["max_connections"]
    assert mapping["ScalingConfig"] == {"MaximumConcurrency": int(connections) // 2 // 4}
    assert (max_concurrency(4), max_concurrency(400), max_concurrency(5_000)) == (2, 100, 1_000)
    assert queue.properties["VisibilityTimeout"] >= 6 * function(account)["Timeout"]
    assert queue.properties["RedrivePolicy"]["maxReceiveCount"] == 5


def test_the_function_is_of_the_release_in_the_network_of_the_tasks_and_logs_into_a_kept_group(
    account: Account,
) -> None:
    found = function(account)
    assert found["Code"]["ImageUri"].endswith(":1.0.0-lambda")
    assert found["PackageType"] == "Image"
    run = account.one("AWS::ECS::Service", "ServicesDaemon").properties["NetworkConfiguration"]["AwsvpcConfiguration"]
    assert found["VpcConfig"]["SecurityGroupIds"] == run["SecurityGroups"]
    assert found["VpcConfig"]["SubnetIds"] == run["Subnets"]
    log = account.one("AWS::Logs::LogGroup", "FunctionLog")
    assert found["LoggingConfig"] == {"LogFormat": "JSON", "LogGroup": log.name}
    assert log.properties["KmsKeyId"]
    assert log.attributes["DeletionPolicy"] == "RetainExceptOnCreate"
    assert (found["FunctionName"], log.properties["LogGroupName"]) == ("acme-logins", "/acme/function")
    role = account.one("AWS::IAM::Role", "FunctionRole")
    (leaves,) = [s for s in account.identity(role) if s.get("Sid") == "LeaveTheNetworkToLambda"]
    assert ":function:acme-logins" in str(leaves["Condition"])


def test_every_variable_of_the_function_is_documented_for_it_and_none_holds_a_password(account: Account) -> None:
    given = function(account)["Environment"]["Variables"]
    documented = set(re.findall(r"`(LOGINPIPE_[A-Z_]+)`", (AWS.parents[1] / "docs" / "lambda.md").read_text()))
    assert {name for name in given if name.startswith("LOGINPIPE_")} <= documented
    secret = account.one("AWS::SecretsManager::Secret", "DatabasePipelineLogin")
    assert given["LOGINPIPE_DATABASE_URL"] == f"secretsmanager:{account.arn(secret)}"
    assert (given["PGSSLMODE"], given["PGSSLROOTCERT"]) == ("verify-full", "/etc/ssl/certs/rds-ca.pem")
    assert given["LOGINPIPE_ENV"] == "production"
    assert "resolve:" not in json.dumps(given)


def test_the_functions_role_seals_and_makes_tokens_and_can_open_nothing(account: Account) -> None:
    role = account.one("AWS::IAM::Role", "FunctionRole")
    seal, tokens = (account.one("AWS::KMS::Key", f"PersonalData{key}") for key in ("Seal", "TokensV2"))
    assert account.who_may("kms:Decrypt", seal) == {"RolesCustodian"}
    assert account.who_may("kms:GenerateMac", tokens) == {"RolesRun", "RolesCustodian", "FunctionRole"}
    assert account.may(role, "kms:GetPublicKey", seal)
    for action in ("Decrypt", "Encrypt", "CreateGrant", "PutKeyPolicy"):
        assert not account.may(role, f"kms:{action}", seal)
    assert [s["Effect"] for s in account.identity(role) if s.get("Sid") == "NeverOpenWhatWasSealed"] == ["Deny"]
    decrypting = [s for s in account.identity(role) if s["Effect"] == "Allow" and "kms:Decrypt" in s["Action"]]
    via = {statement["Condition"]["StringEquals"]["kms:ViaService"].split(".")[0] for statement in decrypting}
    assert via == {"sqs", "secretsmanager"}


def test_the_functions_role_works_one_queue_and_reads_one_password_and_the_salt(account: Account) -> None:
    role = account.one("AWS::IAM::Role", "FunctionRole")
    logins, dead = (account.one("AWS::SQS::Queue", f"Queue{queue}") for queue in ("Logins", "DeadLetters"))
    assert all(account.may(role, f"sqs:{do}", logins) for do in ("ReceiveMessage", "DeleteMessage"))
    assert not any(account.may(role, f"sqs:{do}", dead) for do in ("ReceiveMessage", "DeleteMessage"))
    assert not account.may(role, "sqs:SendMessage", logins)
    read = [s["Resource"] for s in account.identity(role) if "secretsmanager:GetSecretValue" in s.get("Action", ())]
    password = account.arn(account.one("AWS::SecretsManager::Secret", "DatabasePipelineLogin"))
    assert sorted(read, key=str) == sorted([password, json.loads(EXAMPLE.read_text())["compat_salt"]], key=str)
    allowed = {
        action
        for statement in account.identity(role)
        if statement["Effect"] == "Allow"
        for action in ([statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"])
    }
    assert {action.split(":")[0] for action in allowed} == {"kms", "logs", "secretsmanager", "sqs"}
    assert not any("*" in action for action in allowed)
    (trust,) = role.properties["AssumeRolePolicyDocument"]["Statement"]
    assert trust["Principal"] == {"Service": "lambda.amazonaws.com"}


def test_errors_throttles_and_calls_that_run_out_of_time_raise_an_alarm(account: Account) -> None:
    topic = account.one("AWS::SNS::Topic", "TelemetryAlerts")
    alarms = {
        alarm.properties["MetricName"]: alarm.properties
        for alarm in account.of("AWS::CloudWatch::Alarm")
        if alarm.properties.get("Namespace") == "AWS/Lambda"
    }
    late = 0.8 * function(account)["Timeout"] * 1000
    assert {name: alarm["Threshold"] for name, alarm in alarms.items()} == {
        "Errors": 0,
        "Throttles": 0,
        "Duration": late,
    }
    assert alarms["Duration"]["Statistic"] == "Maximum"
    for alarm in alarms.values():
        assert alarm["AlarmActions"] == [account.arn(topic)]
        assert [each["Name"] for each in alarm["Dimensions"]] == ["FunctionName"]
    assert account.one("AWS::CloudWatch::Alarm", "ObservabilityOldestMessage")


def test_dagster_is_told_who_consumes_and_without_lambda_there_is_none_of_it(
    account: Account, synthesised: Path
) -> None:
    server = account.one("AWS::ECS::TaskDefinition", "ServicesCodeServer").properties["ContainerDefinitions"][0]
    assert {"Name": "LOGINPIPE_CONSUMER", "Value": "lambda"} in server["Environment"]
    for stack in STACKS:
        body = (synthesised / f"{stack}.template.json").read_text()
        assert "AWS::Lambda::EventSourceMapping" not in body


@pytest.mark.parametrize("consumer", ["ecs", "Lambda", 1])
def test_a_consumer_that_there_is_not_is_refused(tmp_path: Path, consumer: Any) -> None:
    done = run_app(tmp_path / "out", consumer=consumer)
    assert done.returncode == 1
    assert "context value consumer must be one of dagster, lambda, both" in done.stderr


def test_cfn_lint_and_checkov_find_nothing_but_the_exceptions(folder: Path) -> None:
    templates = sorted(str(path) for path in folder.glob("*.template.json"))
    linted = subprocess.run([SCRIPTS / "cfn-lint", *templates], capture_output=True, text=True, check=False)
    assert (linted.returncode, linted.stdout) == (0, "")
    command = [SCRIPTS / "checkov", "--file", *templates, "--framework", "cloudformation", "--skip-download"]
    checked = subprocess.run([*command, "--output", "json"], capture_output=True, text=True, check=False)
    results = json.loads(checked.stdout)["results"]
    assert [f"{check['check_id']} {check['resource']}" for check in results["failed_checks"]] == []
    assert {check for _, check, _ in EXCEPTIONS} <= {check["check_id"] for check in results["skipped_checks"]}
