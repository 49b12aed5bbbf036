"""The templates, deployed by the embedded AWS endpoint's CloudFormation, with an embedded Postgres in the place of RDS.

These tests run where loginpipe is installed, not where the CDK is; `make aws-check` makes the templates first.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import STDOUT, Popen
from typing import Any, Final

import boto3
import psycopg2
import pytest
from psycopg2.extensions import parse_dsn

from loginpipe.local.stack import LocalStack, running_stack
from loginpipe.masking.aws_keys import kms_client, read_kms_seal_key

AWS: Final = Path(__file__).parents[2]
SYNTHESISED: Final = AWS / "cdk.out.example"
STACKS: Final = ("LoginpipeData", "LoginpipeSetup", "LoginpipeServices")
REGION: Final = "eu-central-1"
ADMINISTRATOR: Final = "loginpipe_admin"
SECONDS: Final = 120

UNKNOWN: Final = frozenset(
    {
        "AWS::EC2::EIP", "AWS::EC2::FlowLog", "AWS::EC2::NatGateway", "AWS::EC2::SecurityGroupEgress",
        "AWS::EC2::SecurityGroupIngress",
    }
)  # fmt: skip
"""What the endpoint does not know: left out, with what refers to it. Everything else is deployed as it is."""


@dataclass(frozen=True)
class Deployed:
    """The three stacks, as they came to be."""

    stack: LocalStack
    left_out: Mapping[str, set[str]]
    """Stack → types of the resources that were left out."""
    left_behind: Mapping[str, list[str]]
    """Kind → names that a first deployment left which failed at its end."""

    def outputs(self, stack: str) -> dict[str, str]:
        (found,) = boto3.client("cloudformation").describe_stacks(StackName=stack)["Stacks"]
        return {output["OutputKey"]: output["OutputValue"] for output in found["Outputs"]}

    def task(self, family: str) -> "Task":
        """A task definition as ECS knows it, references resolved; its secrets as the template refers to them.

        The endpoint's ECS takes over what a secret refers to, but does not give it out again.
        """
        family = f"loginpipe-{family}"
        known = boto3.client("ecs").describe_task_definition(taskDefinition=family)["taskDefinition"]
        secrets = {
            secret["Name"]: self._secret(secret["ValueFrom"])
            for name in STACKS
            for resource in json.loads((SYNTHESISED / f"{name}.template.json").read_text())["Resources"].values()
            if resource["Type"] == "AWS::ECS::TaskDefinition" and resource["Properties"]["Family"] == family
            for secret in resource["Properties"]["ContainerDefinitions"][0]["Secrets"]
        }
        endpoint = self.outputs("LoginpipeData")["DatabaseEndpoint"]
        return Task(self.stack, endpoint, known["containerDefinitions"][0], secrets)

    def _secret(self, value_from: dict[str, Any]) -> str:
        """Read the value that a reference leads to: a secret of the other stack, and a key of its JSON."""
        reference, rest = value_from["Fn::Join"][1]
        exports = {each["Name"]: each["Value"] for each in boto3.client("cloudformation").list_exports()["Exports"]}
        arn = exports[reference["Fn::ImportValue"]]
        value: str = json.loads(boto3.client("secretsmanager").get_secret_value(SecretId=arn)["SecretString"])[
            rest.strip(":")
        ]
        return value


@dataclass(frozen=True)
class Task:
    """A container that is run here as a process: its own entry point, command, variables and secrets."""

    stack: LocalStack
    endpoint: str
    container: dict[str, Any]
    secrets: Mapping[str, str]

    def environment(self, folder: Path) -> dict[str, str]:
        """What ECS would set; but for the database, which is behind a socket, and AWS, which is on this machine."""
        given = {each["name"]: each["value"] for each in self.container["environment"]}
        given |= self.secrets
        socket = parse_dsn(self.stack.database_url)["host"]
        for name, value in given.items():
            if name == "PGHOST":
                given[name] = socket
            elif self.endpoint in value:
                given[name] = value.split("?")[0].replace(f"{self.endpoint}:5432/", "/") + f"?host={socket}"
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("LOGINPIPE_")},
            **given,
            **({"PGSSLMODE": "disable"} if "PGSSLMODE" in given else {}),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            # As the Dockerfiles put them: that of ECS where the task says so, else the image's own.
            "DAGSTER_HOME": str(home(folder, AWS if "DAGSTER_HOME" in given else AWS.parents[1])),
            "PGPASSFILE": str(folder / ".pgpass"),
        }

    @contextmanager
    def running(self, folder: Path, command: list[str] | None = None, **more: str) -> Iterator["Popen[bytes]"]:
        """Run the container's command, or another, for the length of a ``with`` block."""
        folder.mkdir(exist_ok=True)
        with (folder / "output").open("w") as output:
            process = Popen(
                self._command(command), cwd=folder, env=self.environment(folder) | more, stdout=output, stderr=STDOUT
            )
            try:
                yield process
            finally:
                process.terminate()
                process.wait(timeout=SECONDS)

    def _command(self, command: list[str] | None) -> list[str]:
        return [*self.container.get("entryPoint", []), *(command or self.container["command"])]

    def run(self, folder: Path, command: list[str] | None = None) -> "subprocess.CompletedProcess[str]":
        """Run the container's command, or another as `aws ecs run-task` would with an override."""
        return subprocess.run(
            self._command(command),
            cwd=folder,
            env=self.environment(folder),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )


def home(folder: Path, source: Path) -> Path:
    made = folder / f"home-{source.name}"
    made.mkdir(exist_ok=True)
    (made / "dagster.yaml").write_text((source / "dagster.yaml").read_text())
    return made


@pytest.fixture(scope="session")
def deployed() -> Iterator[Deployed]:
    if not SYNTHESISED.is_dir():
        pytest.skip(f"{SYNTHESISED} is missing: `make aws-check` makes the templates first")
    with running_stack() as stack, pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("AWS_", "LOGINPIPE_", "DAGSTER_", "PG")):
                patch.delenv(name)
        for name, value in {**stack.aws_environment, "AWS_REGION": REGION, "AWS_DEFAULT_REGION": REGION}.items():
            patch.setenv(name, value)
        empty_postgres(stack)
        prepare_account()
        left_behind = fail_to_deploy(stack)
        yield Deployed(stack, {name: deploy(stack, name) for name in STACKS}, left_behind)


@pytest.fixture(scope="session")
def prepared(deployed: Deployed, tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    """Both one-off tasks have run, the first of them twice."""
    folder = tmp_path_factory.mktemp("setup")
    for family in ("prepare", "prepare", "migrate"):
        done = deployed.task(family).run(folder)
        assert done.returncode == 0, done.stdout + done.stderr
    return deployed


def empty_postgres(stack: LocalStack) -> None:
    """Leave the server as RDS hands it over: no database of ours, and an administrator who is no superuser."""
    connection = psycopg2.connect(stack.database_url.replace("/loginpipe?", "/postgres?"))
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("SELECT datname FROM pg_database WHERE datname IN ('loginpipe', 'dagster')")
        for (name,) in cursor.fetchall():
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
        cursor.execute(f"CREATE ROLE {ADMINISTRATOR} LOGIN CREATEROLE CREATEDB")
    connection.close()


def deploy(stack: LocalStack, name: str) -> set[str]:
    """Deploy a stack's template by way of a bucket, as `cdk deploy` does; return the types that were left out."""
    body = json.loads((SYNTHESISED / f"{name}.template.json").read_text())
    left_out = leave_out_unknown(body)
    stand_in(body)
    create(stack, name, body)
    cloudformation = boto3.client("cloudformation")
    deadline = time.monotonic() + SECONDS
    while (status := cloudformation.describe_stacks(StackName=name)["Stacks"][0]["StackStatus"]) != "CREATE_COMPLETE":
        failed = [
            f"{event['LogicalResourceId']} ({event['ResourceType']}): {event.get('ResourceStatusReason')}"
            for event in cloudformation.describe_stack_events(StackName=name)["StackEvents"]
            if "FAILED" in event["ResourceStatus"]
        ]
        assert status.endswith("IN_PROGRESS"), f"{name} is {status}: {failed}"
        assert time.monotonic() < deadline, f"{name} is still {status}"
    return left_out


def create(stack: LocalStack, name: str, body: dict[str, Any]) -> None:
    boto3.client("s3").put_object(Bucket="templates", Key=name, Body=json.dumps(body).encode())
    boto3.client("cloudformation").create_stack(
        StackName=name,
        TemplateURL=f"{stack.endpoint_url}/templates/{name}",
        Capabilities=["CAPABILITY_NAMED_IAM"],
    )


def fail_to_deploy(stack: LocalStack) -> dict[str, list[str]]:
    """Deploy the data with a resource that fails once the queues, secrets, buckets and images are there.

    Returns:
        What is left of them when it was rolled back and, as the CDK does before it tries again, deleted.
    """
    name = STACKS[0]
    body = json.loads((SYNTHESISED / f"{name}.template.json").read_text())
    leave_out_unknown(body)
    kinds = ("AWS::SQS::Queue", "AWS::SecretsManager::Secret", "AWS::S3::Bucket", "AWS::ECR::Repository")
    before = [key for key, resource in body["Resources"].items() if resource["Type"] in kinds]
    # A standard queue with the name of a FIFO queue.
    broken = {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": "logins.fifo"}, "DependsOn": before}
    body["Resources"]["Broken"] = broken
    create(stack, name, body)
    cloudformation = boto3.client("cloudformation")
    deadline = time.monotonic() + SECONDS
    while (status := cloudformation.describe_stacks(StackName=name)["Stacks"][0]["StackStatus"]) != "ROLLBACK_COMPLETE":
        assert status.endswith("IN_PROGRESS"), status
        assert time.monotonic() < deadline, status
    left = {
        "queues": boto3.client("sqs").list_queues().get("QueueUrls", []),
        "secrets": [each["Name"] for each in boto3.client("secretsmanager").list_secrets()["SecretList"]],
        "repositories": [
            each["repositoryName"] for each in boto3.client("ecr").describe_repositories()["repositories"]
        ],
        "buckets": [each["Name"] for each in boto3.client("s3").list_buckets()["Buckets"]],
    }
    cloudformation.delete_stack(StackName=name)
    return left


def prepare_account() -> None:
    """Put in place what is there before the first deployment: what `cdk bootstrap` leaves, and the client's secret."""
    boto3.client("ssm").put_parameter(Name="/cdk-bootstrap/hnb659fds/version", Value="30", Type="String")
    boto3.client("s3").create_bucket(Bucket="templates", CreateBucketConfiguration={"LocationConstraint": REGION})
    boto3.client("secretsmanager").create_secret(Name="loginpipe/oidc", SecretString="of the client")


def stand_in(body: dict[str, Any]) -> None:
    """Replace the one reference that means nothing here: the account of the client's secret."""
    arn = boto3.client("secretsmanager").list_secrets()["SecretList"]
    oidc = next((secret["ARN"] for secret in arn if secret["Name"] == "loginpipe/oidc"), "")
    text = json.dumps(body).replace(
        "arn:aws:secretsmanager:eu-central-1:111122223333:secret:loginpipe/oidc-AbCdEf", oidc
    )
    body.clear()
    body.update(json.loads(text))


def leave_out_unknown(body: dict[str, Any]) -> set[str]:
    resources = body["Resources"]
    gone: set[str] = set()
    while more := {
        name
        for name, resource in resources.items()
        if name not in gone and (resource["Type"] in UNKNOWN or gone & set(references(resource)))
    }:
        gone |= more
    left_out = {resources.pop(name)["Type"] for name in gone}
    for resource in resources.values():
        if "DependsOn" in resource:
            needed = resource["DependsOn"]
            resource["DependsOn"] = [
                name for name in ([needed] if isinstance(needed, str) else needed) if name not in gone
            ]
    return left_out


def references(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for each in value:
            yield from references(each)
    elif isinstance(value, dict):
        if set(value) == {"Ref"}:
            yield value["Ref"]
        elif set(value) == {"Fn::GetAtt"}:
            yield value["Fn::GetAtt"][0]
        else:
            yield from references([each for key, each in value.items() if key != "DependsOn"])


def rows(deployed: Deployed, statement: str) -> list[tuple[Any, ...]]:
    """Ask the warehouse something, as its superuser."""
    connection = psycopg2.connect(deployed.stack.database_url)
    with connection, connection.cursor() as cursor:
        cursor.execute(statement)
        found = cursor.fetchall()
    connection.close()
    return found


def with_fingerprint(deployed: Deployed, family: str = "run") -> Task:
    """A task that is what a run is, with the fingerprint of the seal key: an operator sets it before deploying it."""
    task = deployed.task(family)
    key = read_kms_seal_key(kms_client(production=True), deployed.outputs(STACKS[0])["SealKey"])
    for variable in task.container["environment"]:
        if variable["name"] == "LOGINPIPE_SEAL_KEY_FINGERPRINT":
            variable["value"] = key.fingerprint
    return task
