"""Create the cluster and the one-off tasks: prepare the database, migrate it, run `doctor`, and redrive."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_rds as rds
from aws_cdk import aws_secretsmanager as sm
from constructs import Construct

from loginpipe_aws.containers import (
    RDS_CA,
    add_container,
    database_url,
    for_queue,
    image_of,
    password_of,
    scope_for,
    task_definition,
)
from loginpipe_aws.database import ADMINISTRATOR
from loginpipe_aws.naming import named
from loginpipe_aws.roles import Roles

ONE_OFF_CPU: Final = 512

_PREPARE: Final = Path(__file__).with_name("prepare_database.py")


class Setup(Construct):
    """The cluster and its one-off tasks."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        vpc: ec2.IVpc,
        roles: Roles,
        images: ecr.IRepository,
        image_tag: str,
        instance: rds.IDatabaseInstance,
        administrator: sm.ISecret,
        logins: Mapping[str, sm.ISecret],
        key: kms.IKey,
        environment: Mapping[str, str],
        counting: Mapping[str, Mapping[str, str]],
        pipeline: Mapping[str, Mapping[str, str]],
        log_group: logs.ILogGroup,
    ) -> None:
        # `environment` is for migrations. The others are by queue; the login queue has no name. `counting` is for tasks
        # that use the queue and the database and have no key; `pipeline` is the environment of a run.
        super().__init__(scope, construct_id)
        image = image_of(images, image_tag)
        self.cluster = ecs.Cluster(
            self,
            "Cluster",
            vpc=vpc,
            cluster_name=named(self, "{}"),
            container_insights_v2=ecs.ContainerInsights.ENABLED,
        )
        self.prepare = task_definition(self, "Prepare", cpu=256, memory_mib=512, role=roles.setup)
        prepare = add_container(
            self.prepare,
            "prepare",
            image=image,
            command=["python", "-c", _PREPARE.read_text()],
            environment={
                "PGHOST": instance.db_instance_endpoint_address,
                "PGUSER": ADMINISTRATOR,
                "PGSSLMODE": "verify-full",
                "PGSSLROOTCERT": RDS_CA,
            },
            log_group=log_group,
            logins={},
            key=key,
        )
        prepare.add_secret("PGPASSWORD", password_of(self.prepare, administrator, key))
        for part, secret in logins.items():
            prepare.add_secret(f"{part.upper()}_PASSWORD", password_of(self.prepare, secret, key))

        self.migrate = task_definition(self, "Migrate", cpu=ONE_OFF_CPU, memory_mib=1024, role=roles.setup)
        add_container(
            self.migrate,
            "migrate",
            image=image,
            command=["sh", "-euc", "loginpipe migrate && dagster instance migrate"],
            environment={**environment, "LOGINPIPE_DATABASE_URL": database_url(instance, "owner", "loginpipe")},
            log_group=log_group,
            logins={part: logins[part] for part in ("owner", "dagster")},
            key=key,
        )

        # The image and rights of a run, checked with the new image before the services use it.
        self.check = task_definition(self, "Check", cpu=ONE_OFF_CPU, memory_mib=1024, role=roles.run)
        add_container(
            self.check,
            "check",
            image=image,
            command=_doctor(pipeline),
            environment=pipeline[""],
            log_group=log_group,
            logins={part: logins[part] for part in ("pipeline", "dagster")},
            key=key,
        )

        # Uses --dry-run by default; `run-task.sh` can pass another command.
        for queue, told in counting.items():
            redrive = task_definition(
                scope_for(self, queue), "Redrive", cpu=256, memory_mib=512, role=roles.redrive, queue=queue
            )
            add_container(
                redrive,
                for_queue("redrive", queue),
                image=image,
                command=["loginpipe", "dlq", "redrive", "--dry-run"],
                environment=told,
                log_group=log_group,
                logins={"pipeline": logins["pipeline"]},
                key=key,
            )


def _doctor(pipeline: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return a command that runs `doctor` for every queue, and fails if one of them fails."""
    ours, *further = pipeline.values()
    if not further:
        return ["loginpipe", "doctor"]
    runs = ["loginpipe doctor || failed=1"]
    for theirs in further:
        own = " ".join(f"{name}='{value}'" for name, value in theirs.items() if ours.get(name) != value)
        runs.append(f"{own} loginpipe doctor || failed=1")
    return ["sh", "-uc", "; ".join(["failed=0", *runs, "exit $failed"])]
