"""What runs all the time: code server, daemon, web server; and the task that each run is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import aws_cdk as cdk
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_secretsmanager as sm
from aws_cdk import aws_servicediscovery as discovery
from constructs import Construct

from loginpipe_aws.containers import DAGSTER_HOME, add_container, image_of, task_definition
from loginpipe_aws.context import Release
from loginpipe_aws.naming import named
from loginpipe_aws.network import GRPC_PORT, TASKS, WEB_PORT, Network, as_it_is
from loginpipe_aws.roles import Roles
from loginpipe_aws.setup import ONE_OFF_CPU
from loginpipe_aws.telemetry import Telemetry

CODE_SERVER: Final = "code-server"

_JSON: Final = ("--log-format", "json")
_WORKSPACE: Final = ("-w", f"{DAGSTER_HOME}/workspace.yaml")
# The image has no curl.
_ASK: Final = f'from urllib.request import urlopen; urlopen("http://127.0.0.1:{WEB_PORT}/server_info", timeout=5)'


@dataclass(frozen=True)
class Size:
    """What a service takes on Fargate.

    Attributes:
        cpu: of a task, in units of which 1,024 are a core.
        count: its tasks.
        stay: as many of them run while a new version is deployed.
        more: as many new ones are started beside them.
    """

    cpu: int
    count: int
    stay: int
    more: int


SIZES: Final = {
    "CodeServer": Size(cpu=512, count=1, stay=1, more=1),
    # Two daemons would each take runs off the queue: the old one ends before the new one starts.
    "Daemon": Size(cpu=512, count=1, stay=0, more=0),
    "Webserver": Size(cpu=512, count=2, stay=1, more=1),
    "Metrics": Size(cpu=256, count=1, stay=0, more=0),
}


def peak_cpu(runs: int, run_cpu: int) -> int:
    """Return the CPU units that all tasks take at most: every run with its successor, while services are replaced.

    A service is replaced once the code server is, and one-off tasks run before both: the largest of the three counts.
    """
    lasting = sum(size.cpu * size.count for size in SIZES.values())
    replaced = max(
        SIZES["CodeServer"].cpu * SIZES["CodeServer"].more,
        sum(size.cpu * size.more for part, size in SIZES.items() if part != "CodeServer"),
        ONE_OFF_CPU,
    )
    return lasting + replaced + 2 * runs * run_cpu


class Services(Construct):
    """The services of Dagster on Fargate, each with a role of its own."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        cluster: ecs.ICluster,
        network: Network,
        roles: Roles,
        images: ecr.IRepository,
        released: Release,
        logins: Mapping[str, sm.ISecret],
        key: kms.IKey,
        telemetry: Telemetry,
        dagster: Mapping[str, str],
        counting: Mapping[str, str],
        pipeline: Mapping[str, str],
    ) -> None:
        # `dagster` is the environment of whatever is part of Dagster; `counting` of what asks queue and database alone;
        # `pipeline` is both and the keys, for what loads the pipeline's code.
        super().__init__(scope, construct_id)
        self._cluster, self._network = cluster, network
        image = image_of(images, released.image_tag)
        both = {part: logins[part] for part in ("pipeline", "dagster")}
        storage = {"dagster": logins["dagster"]}

        self.run = task_definition(
            self, "Run", cpu=released.run_cpu, memory_mib=released.run_memory_mib, role=roles.run
        )
        add_container(
            self.run,
            "run",
            image=image,
            # The launcher's takes its place. By itself the task says whether everything is in order.
            command=["loginpipe", "doctor"],
            environment=pipeline,
            log_group=telemetry.parts["run"],
            logins=both,
            key=key,
        )
        starts_runs = {
            **dagster,
            "LOGINPIPE_RUN_TASK_DEFINITION": self.run.task_definition_arn,
            "LOGINPIPE_CODE_SERVER_HOST": f"{CODE_SERVER}.{named(self, '{}.internal')}",
        }

        code_server = task_definition(
            self, "CodeServer", cpu=SIZES["CodeServer"].cpu, memory_mib=2048, role=roles.code_server
        )
        add_container(
            code_server,
            CODE_SERVER,
            image=image,
            command=[
                "dagster", "code-server", "start", "-h", "0.0.0.0", "-p", str(GRPC_PORT),  # noqa: S104
                "-m", "loginpipe.definitions", *_JSON,
            ],
            environment=pipeline,
            log_group=telemetry.parts[CODE_SERVER],
            logins=both,
            key=key,
            health=["dagster", "api", "grpc-health-check", "-p", str(GRPC_PORT)],
            port=GRPC_PORT,
        )  # fmt: skip
        self.code_server = self._service("CodeServer", code_server, network.tasks)
        namespace = discovery.PrivateDnsNamespace(self, "Namespace", name=named(self, "{}.internal"), vpc=network.vpc)
        self.code_server.enable_cloud_map(
            name=CODE_SERVER,
            cloud_map_namespace=namespace,
            dns_record_type=discovery.DnsRecordType.A,
            dns_ttl=cdk.Duration.seconds(10),
        )

        daemon = task_definition(self, "Daemon", cpu=SIZES["Daemon"].cpu, memory_mib=1024, role=roles.daemon)
        add_container(
            daemon,
            "daemon",
            image=image,
            command=["dagster-daemon", "run", *_WORKSPACE, *_JSON],
            environment=starts_runs,
            log_group=telemetry.parts["daemon"],
            logins=storage,
            key=key,
            health=["dagster-daemon", "liveness-check"],
        )
        self.daemon = self._service("Daemon", daemon, network.tasks)

        webserver = task_definition(
            self, "Webserver", cpu=SIZES["Webserver"].cpu, memory_mib=1024, role=roles.webserver
        )
        add_container(
            webserver,
            "webserver",
            image=image,
            command=["dagster-webserver", "-h", "0.0.0.0", "-p", str(WEB_PORT), *_WORKSPACE, *_JSON],  # noqa: S104
            environment=starts_runs,
            log_group=telemetry.parts["webserver"],
            logins=storage,
            key=key,
            health=["python", "-c", _ASK],
            port=WEB_PORT,
        )
        self.webserver = self._service("Webserver", webserver, network.webserver)
        for service in (self.daemon, self.webserver):
            service.node.add_dependency(self.code_server)

        metrics = task_definition(self, "Metrics", cpu=SIZES["Metrics"].cpu, memory_mib=512, role=roles.metrics)
        add_container(
            metrics,
            "metrics",
            image=image,
            # Its lines are what CloudWatch takes for metrics.
            command=["loginpipe", "metrics", "--emf"],
            environment=counting,
            log_group=telemetry.parts["metrics"],
            logins={"pipeline": logins["pipeline"]},
            key=key,
        )
        self.metrics = self._service("Metrics", metrics, network.tasks)

        stops = _on_tasks(cluster, ["ecs:DescribeTasks", "ecs:StopTask"])
        # Neither knows resources.
        looks = iam.PolicyStatement(
            sid="LookItUp",
            actions=["ecs:DescribeTaskDefinition", "ec2:DescribeNetworkInterfaces"],
            resources=["*"],
        )
        # Policies of this stack, on roles of the other: a role's own would need this stack before that one.
        iam.Policy(self, "StopsRuns", roles=[roles.webserver], statements=[stops, looks])
        iam.Policy(
            self,
            "StartsRuns",
            roles=[roles.daemon],
            statements=[stops, looks, *self._starting(cluster, roles), _reading(telemetry)],
        )

    def _starting(self, cluster: ecs.ICluster, roles: Roles) -> list[iam.PolicyStatement]:
        """Return what starting the one task definition takes, and passing on its two roles."""
        run = iam.PolicyStatement(
            sid="StartRuns",
            actions=["ecs:RunTask"],
            resources=[self.run.task_definition_arn],
            conditions={"ArnEquals": {"ecs:cluster": cluster.cluster_arn}},
        )
        stack = cdk.Stack.of(self)
        tag = iam.PolicyStatement(
            sid="NameThem",
            actions=["ecs:TagResource"],
            resources=[stack.format_arn(service="ecs", resource="task", resource_name=f"{cluster.cluster_name}/*")],
            conditions={"StringEquals": {"ecs:CreateAction": "RunTask"}},
        )
        hand_on = iam.PolicyStatement(
            sid="WithTheirRoles",
            actions=["iam:PassRole"],
            resources=[roles.run.role_arn, self.run.obtain_execution_role().role_arn],
            conditions={"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}},
        )
        return [run, tag, hand_on]

    def _service(
        self,
        part: str,
        task: ecs.FargateTaskDefinition,
        group: ec2.ISecurityGroup,
    ) -> ecs.FargateService:
        size = SIZES[part]
        limits: dict[str, Any] = {
            "min_healthy_percent": 100 * size.stay // size.count,
            "max_healthy_percent": 100 * (size.count + size.more) // size.count,
        }
        return ecs.FargateService(
            self,
            f"{part}Service",
            cluster=self._cluster,
            task_definition=task,
            desired_count=size.count,
            vpc_subnets=TASKS,
            security_groups=[as_it_is(self, f"{part}ServiceGroup", group)],
            assign_public_ip=False,
            # A version that does not come up is taken back.
            circuit_breaker=ecs.DeploymentCircuitBreaker(rollback=True),
            enable_execute_command=False,
            propagate_tags=ecs.PropagatedTagSource.SERVICE,
            **limits,
        )


def _on_tasks(cluster: ecs.ICluster, actions: Sequence[str]) -> iam.PolicyStatement:
    return iam.PolicyStatement(
        sid="WatchAndStopTasks",
        actions=list(actions),
        resources=["*"],
        conditions={"ArnEquals": {"ecs:cluster": cluster.cluster_arn}},
    )


def _reading(telemetry: Telemetry) -> iam.PolicyStatement:
    """Return the right to read the last lines of a run that died."""
    return iam.PolicyStatement(
        sid="SayWhatARunSaidLast",
        actions=["logs:GetLogEvents"],
        resources=[telemetry.parts["run"].log_group_arn, f"{telemetry.parts['run'].log_group_arn}:log-stream:*"],
    )
