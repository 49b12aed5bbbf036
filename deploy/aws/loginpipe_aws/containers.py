"""Define one container of the image: read-only, unprivileged, passwords by reference, log lines in CloudWatch."""

from collections.abc import Mapping, Sequence
from typing import Final

import aws_cdk as cdk
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_rds as rds
from aws_cdk import aws_secretsmanager as sm
from constructs import Construct

from loginpipe_aws.database import LOGINS
from loginpipe_aws.naming import named

RDS_CA: Final = "/etc/ssl/certs/rds-ca.pem"
DAGSTER_HOME: Final = "/opt/dagster/aws"
"""The folder of the dagster.yaml with a launcher. Migrations use the image's own file, which has no launcher."""

_PASSWORD_FILE: Final = "/tmp/.pgpass"  # noqa: S105, S108 - the task's own volume
# In that file a colon ends a field, and a backslash escapes the colon.
_WRITE_LINE: Final = r"""line() {
  printf '*:5432:*:%s:' "$1"
  printf '%s\n' "$2" | sed 's/[\\:]/\\&/g'
}
"""
_STOP: Final = cdk.Duration.seconds(90)
"""Longer than a run needs to finish its batch and return the rest to the queue: 30 seconds are enough."""


def task_definition(
    scope: Construct, construct_id: str, *, cpu: int, memory_mib: int, role: iam.IRole, queue: str = ""
) -> ecs.FargateTaskDefinition:
    """Return a Fargate task that can write only to /tmp. `queue` is the further queue that it belongs to."""
    return ecs.FargateTaskDefinition(
        scope,
        construct_id,
        family=for_queue(named(scope, f"{{}}-{construct_id.lower()}"), queue),
        cpu=cpu,
        memory_limit_mib=memory_mib,
        task_role=role,
        runtime_platform=ecs.RuntimePlatform(
            cpu_architecture=ecs.CpuArchitecture.X86_64, operating_system_family=ecs.OperatingSystemFamily.LINUX
        ),
        volumes=[ecs.Volume(name="tmp")],
    )


def add_container(
    task: ecs.FargateTaskDefinition,
    name: str,
    *,
    image: ecs.ContainerImage,
    command: Sequence[str],
    environment: Mapping[str, str],
    log_group: logs.ILogGroup,
    logins: Mapping[str, sm.ISecret],
    key: kms.IKey,
    health: Sequence[str] = (),
    port: int | None = None,
    first: str = "",
) -> ecs.ContainerDefinition:
    """Add the only container to a task.

    Args:
        task: the task definition.
        name: the name of the container.
        image: the project's image.
        command: the command of the container.
        environment: variables without secrets.
        log_group: the log group for its output.
        logins: part → secret of each database login that it uses.
        key: the key that encrypts these secrets.
        health: the command of its health check.
        port: the port it listens on.
        first: shell lines to run before the command, in a container with logins.
    """
    container = task.add_container(
        name,
        container_name=name,
        image=image,
        entry_point=["sh", "-euc", _with_passwords(logins, first), "loginpipe"] if logins else None,
        command=list(command),
        environment={**environment, "PGPASSFILE": _PASSWORD_FILE} if logins else dict(environment),
        secrets={_password(part): password_of(task, secret, key) for part, secret in logins.items()},
        logging=ecs.LogDrivers.aws_logs(stream_prefix=name, log_group=log_group),
        readonly_root_filesystem=True,
        privileged=False,
        user="10001:10001",
        stop_timeout=_STOP,
        # Reaps child processes of the code server, and forwards signals.
        linux_parameters=ecs.LinuxParameters(task, f"{name}-linux", init_process_enabled=True),
        port_mappings=[ecs.PortMapping(container_port=port)] if port else None,
        health_check=ecs.HealthCheck(
            command=["CMD", *health],
            interval=cdk.Duration.seconds(30),
            timeout=cdk.Duration.seconds(30),
            retries=4,
            start_period=cdk.Duration.seconds(90),
        )
        if health
        else None,
    )
    container.linux_parameters.drop_capabilities(ecs.Capability.ALL)  # type: ignore[union-attr]
    container.add_mount_points(ecs.MountPoint(container_path="/tmp", source_volume="tmp", read_only=False))  # noqa: S108
    return container


def password_of(task: ecs.FargateTaskDefinition, secret: sm.ISecret, key: kms.IKey) -> ecs.Secret:
    """Return a password as a reference that ECS resolves at the start of the task, and allow the task to read it.

    The secret is imported by its ARN. Otherwise the CDK would name the role of this stack in the policy of the key,
    whose stack is created earlier.
    """
    known = sm.Secret.from_secret_complete_arn(task, f"{secret.node.id}Secret", secret.secret_arn)
    via = f"secretsmanager.{cdk.Stack.of(task).region}.amazonaws.com"
    task.add_to_execution_role_policy(
        iam.PolicyStatement(
            sid="DecryptTheSecrets",
            actions=["kms:Decrypt"],
            resources=[key.key_arn],
            conditions={"StringEquals": {"kms:ViaService": via}},
        )
    )
    return ecs.Secret.from_secrets_manager(known, "password")


def image_of(repository: ecr.IRepository, tag: str) -> ecs.ContainerImage:
    """Return the image of a release."""
    return ecs.ContainerImage.from_ecr_repository(repository, tag)


def database_url(instance: rds.IDatabaseInstance, part: str, database: str, scheme: str = "postgresql") -> str:
    """Return the URL of a database for a login, without the password, which is in the password file."""
    host = instance.db_instance_endpoint_address
    return f"{scheme}://{LOGINS[part]}@{host}:5432/{database}?sslmode=verify-full&sslrootcert={RDS_CA}"


def _password(part: str) -> str:
    return f"{part.upper()}_PASSWORD"


def scope_for(construct: Construct, queue: str) -> Construct:
    """Return the scope of a queue's constructs: the construct itself for the login queue, otherwise a child of it."""
    return Construct(construct, f"Queue{queue.title()}") if queue else construct


def for_queue(name: str, queue: str) -> str:
    """Return a name for a queue's resource: unchanged for the login queue, otherwise with the name of the queue."""
    return f"{name}-{queue}" if queue else name


def _with_passwords(logins: Mapping[str, sm.ISecret], first: str) -> str:
    """Return a script that writes libpq's password file, runs the lines of `first`, and then executes the command.

    Two logins have two passwords, but PGPASSWORD holds only one, and a URL with a password would appear in messages.
    The script removes the passwords from the environment.
    """
    writes = "\n".join(f'line {LOGINS[part]} "${_password(part)}"; unset {_password(part)}' for part in logins)
    return _WRITE_LINE + f'umask 077\n{{\n{writes}\n}} > "$PGPASSFILE"\numask 022\n{first}exec "$@"'
