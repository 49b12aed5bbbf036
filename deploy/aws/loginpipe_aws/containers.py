"""One container of the image: read-only, unprivileged, passwords by reference, its lines in CloudWatch."""

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
"""Where the Dockerfile beside the app puts dagster.yaml. The image's own, without launcher, serves the migrations."""

_PASSWORD_FILE: Final = "/tmp/.pgpass"  # noqa: S105, S108 - the task's own volume
# In that file a colon ends a field, and a backslash takes that from it.
_WRITE_LINE: Final = r"""line() {
  printf '*:5432:*:%s:' "$1"
  printf '%s\n' "$2" | sed 's/[\\:]/\\&/g'
}
"""
_STOP: Final = cdk.Duration.seconds(90)
"""More than a run takes to finish its batch and return the rest to the queue: 30 seconds are enough."""


def task_definition(
    scope: Construct, construct_id: str, *, cpu: int, memory_mib: int, role: iam.IRole, queue: str = ""
) -> ecs.FargateTaskDefinition:
    """Return a task on Fargate, whose one writable place is /tmp. `queue` is the further queue that it is for."""
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
    """Add the container to its task.

    Args:
        task: which has one container.
        name: the container's.
        image: the project's.
        command: what it runs.
        environment: nothing secret.
        log_group: where its lines go.
        logins: part → secret of the database logins that it uses.
        key: which those secrets are encrypted with.
        health: the command of its health check.
        port: the one it listens on.
        first: lines of shell, of a container with logins, before its command.
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
        # Reaps what the code server leaves behind, and passes signals on.
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
    """Return a secret's password as a reference that ECS resolves at the task's start, and let it read and decrypt it.

    By its ARN: the CDK would else name the role of this stack in the key's policy, whose stack is made before.
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
    """Return the URL of a database as one of the logins: without its password, which comes from the password file."""
    host = instance.db_instance_endpoint_address
    return f"{scheme}://{LOGINS[part]}@{host}:5432/{database}?sslmode=verify-full&sslrootcert={RDS_CA}"


def _password(part: str) -> str:
    return f"{part.upper()}_PASSWORD"


def scope_for(construct: Construct, queue: str) -> Construct:
    """Return where what there is once for each queue belongs: itself for the login queue, else a part of it."""
    return Construct(construct, f"Queue{queue.title()}") if queue else construct


def for_queue(name: str, queue: str) -> str:
    """Return the name of what there is once for each queue: as it is for the login queue, else with the queue's."""
    return f"{name}-{queue}" if queue else name


def _with_passwords(logins: Mapping[str, sm.ISecret], first: str) -> str:
    """Return a script that writes libpq's password file, does what else is to be done first, and becomes the command.

    Two logins with a password each: PGPASSWORD would hold one, and in a URL a password ends up in messages. What is
    written is gone from the environment.
    """
    writes = "\n".join(f'line {LOGINS[part]} "${_password(part)}"; unset {_password(part)}' for part in logins)
    return _WRITE_LINE + f'umask 077\n{{\n{writes}\n}} > "$PGPASSFILE"\numask 022\n{first}exec "$@"'
