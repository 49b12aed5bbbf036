"""Create the long-running services (code server, daemon, web server) and the task of a run.

Each queue has its own code server, run task and metrics. For a further queue, their names contain the name of the
queue.
"""

import json
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

from loginpipe_aws.containers import (
    DAGSTER_HOME,
    add_container,
    for_queue,
    image_of,
    scope_for,
    task_definition,
)
from loginpipe_aws.context import MOST_RUNS, Release
from loginpipe_aws.naming import named
from loginpipe_aws.network import GRPC_PORT, TASKS, WEB_PORT, Network, as_it_is
from loginpipe_aws.roles import Roles
from loginpipe_aws.setup import ONE_OFF_CPU
from loginpipe_aws.telemetry import Telemetry

CODE_SERVER: Final = "code-server"

_JSON: Final = ("--log-format", "json")
_WORKSPACE: Final = ("-w", f"{DAGSTER_HOME}/workspace.yaml")
_QUEUES_HOME: Final = "/tmp/queues"  # noqa: S108 - the task's own volume
# Concurrent runs of the other jobs: the limit of their tag in dagster.yaml.
_OTHER_RUNS: Final = 2
# The image has no curl.
_ASK: Final = f'from urllib.request import urlopen; urlopen("http://127.0.0.1:{WEB_PORT}/server_info", timeout=5)'


@dataclass(frozen=True)
class Size:
    """The size of a service on Fargate.

    Attributes:
        cpu: CPU units of a task; 1,024 units are one core.
        count: the number of tasks.
        stay: the number of old tasks that keep running during a deployment.
        more: the number of new tasks that start besides them.
    """

    cpu: int
    count: int
    stay: int
    more: int


SIZES: Final = {
    "CodeServer": Size(cpu=512, count=1, stay=1, more=1),
    # Two daemons would both start runs from the queue, so the old one stops before the new one starts.
    "Daemon": Size(cpu=512, count=1, stay=0, more=0),
    "Webserver": Size(cpu=512, count=2, stay=1, more=1),
    "Metrics": Size(cpu=256, count=1, stay=0, more=0),
}
OF_EACH_QUEUE: Final = ("CodeServer", "Metrics")


def peak_cpu(runs: int, run_cpu: int, *, further: int = 0) -> int:
    """Return the maximum CPU units of all tasks: every run with its successor, while services are replaced.

    Services are replaced after the code servers, and one-off tasks run before both, so only the largest of the three
    counts. Each of the `further` queues has a code server and metrics.
    """
    tasks = {part: 1 + further if part in OF_EACH_QUEUE else 1 for part in SIZES}
    lasting = sum(size.cpu * size.count * tasks[part] for part, size in SIZES.items())
    replaced = max(
        SIZES["CodeServer"].cpu * SIZES["CodeServer"].more * tasks["CodeServer"],
        sum(size.cpu * size.more * tasks[part] for part, size in SIZES.items() if part != "CodeServer"),
        ONE_OFF_CPU,
    )
    return lasting + replaced + 2 * runs * run_cpu


class Services(Construct):
    """The services of Dagster on Fargate, each with its own role."""

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
        counting: Mapping[str, Mapping[str, str]],
        pipeline: Mapping[str, Mapping[str, str]],
    ) -> None:
        # Environments: `dagster` is for all parts of Dagster. The others are by queue; the login queue has no name.
        # `counting` is for tasks that query only the queue and the database. `pipeline` adds the keys and `dagster`,
        # for tasks that load the pipeline's code.
        super().__init__(scope, construct_id)
        self._cluster, self._network = cluster, network
        image = image_of(images, released.image_tag)
        both = {part: logins[part] for part in ("pipeline", "dagster")}
        storage = {"dagster": logins["dagster"]}
        internal = named(self, "{}.internal")
        namespace = discovery.PrivateDnsNamespace(self, "Namespace", name=internal, vpc=network.vpc)

        self.runs: dict[str, ecs.FargateTaskDefinition] = {}
        code_servers, counters = dict[str, ecs.FargateService](), dict[str, ecs.FargateService]()
        for queue in pipeline:
            where = scope_for(self, queue)
            run = task_definition(
                where, "Run", cpu=released.run_cpu, memory_mib=released.run_memory_mib, role=roles.run, queue=queue
            )
            add_container(
                run,
                for_queue("run", queue),
                image=image,
                # The launcher replaces this command. By default the task checks that everything is in order.
                command=["loginpipe", "doctor"],
                environment=pipeline[queue],
                log_group=telemetry.parts["run"],
                logins=both,
                key=key,
            )
            self.runs[queue] = run

            size = SIZES["CodeServer"]
            code_server = task_definition(
                where, "CodeServer", cpu=size.cpu, memory_mib=2048, role=roles.code_server, queue=queue
            )
            add_container(
                code_server,
                for_queue(CODE_SERVER, queue),
                image=image,
                command=[
                    "dagster", "code-server", "start", "-h", "0.0.0.0", "-p", str(GRPC_PORT),  # noqa: S104
                    "-m", "loginpipe.definitions", *_JSON,
                ],
                environment={**pipeline[queue], **self._launched_as(run, queue)},
                log_group=telemetry.parts[CODE_SERVER],
                logins=both,
                key=key,
                health=["dagster", "api", "grpc-health-check", "-p", str(GRPC_PORT)],
                port=GRPC_PORT,
            )  # fmt: skip
            service = self._service("CodeServer", code_server, network.tasks, where)
            service.enable_cloud_map(
                name=for_queue(CODE_SERVER, queue),
                cloud_map_namespace=namespace,
                dns_record_type=discovery.DnsRecordType.A,
                dns_ttl=cdk.Duration.seconds(10),
            )
            code_servers[f"CodeServer{queue.title()}"] = service

            metrics = task_definition(
                where, "Metrics", cpu=SIZES["Metrics"].cpu, memory_mib=512, role=roles.metrics, queue=queue
            )
            add_container(
                metrics,
                for_queue("metrics", queue),
                image=image,
                # CloudWatch turns its log lines into metrics.
                command=["loginpipe", "metrics", "--emf"],
                environment=counting[queue],
                log_group=telemetry.parts["metrics"],
                logins={"pipeline": logins["pipeline"]},
                key=key,
            )
            counters[f"Metrics{queue.title()}"] = self._service("Metrics", metrics, network.tasks, where)

        starts_runs = {
            **dagster,
            "LOGINPIPE_RUN_TASK_DEFINITION": self.runs[""].task_definition_arn,
            "LOGINPIPE_CODE_SERVER_HOST": f"{CODE_SERVER}.{internal}",
        }
        further = {queue: f"{for_queue(CODE_SERVER, queue)}.{internal}" for queue in pipeline if queue}
        locations = [*_WORKSPACE, *(("-w", f"{_QUEUES_HOME}/workspace.yaml") if further else ())]
        first = _at_home_with(further) if further else ""

        daemon = task_definition(self, "Daemon", cpu=SIZES["Daemon"].cpu, memory_mib=1024, role=roles.daemon)
        add_container(
            daemon,
            "daemon",
            image=image,
            command=["dagster-daemon", "run", *locations, *_JSON],
            environment=starts_runs,
            log_group=telemetry.parts["daemon"],
            logins=storage,
            key=key,
            health=["dagster-daemon", "liveness-check"],
            first=first,
        )
        daemons = self._service("Daemon", daemon, network.tasks)

        webserver = task_definition(
            self, "Webserver", cpu=SIZES["Webserver"].cpu, memory_mib=1024, role=roles.webserver
        )
        add_container(
            webserver,
            "webserver",
            image=image,
            command=["dagster-webserver", "-h", "0.0.0.0", "-p", str(WEB_PORT), *locations, *_JSON],  # noqa: S104
            environment=starts_runs,
            log_group=telemetry.parts["webserver"],
            logins=storage,
            key=key,
            health=["python", "-c", _ASK],
            port=WEB_PORT,
            first=first,
        )
        self.webserver = self._service("Webserver", webserver, network.webserver)
        for service in (daemons, self.webserver):
            service.node.add_dependency(*code_servers.values())
        self.services = {**code_servers, "Daemon": daemons, "Webserver": self.webserver, **counters}

        stops = _on_tasks(cluster, ["ecs:DescribeTasks", "ecs:StopTask"])
        # These actions do not support resources.
        looks = iam.PolicyStatement(
            sid="LookItUp",
            actions=["ecs:DescribeTaskDefinition", "ec2:DescribeNetworkInterfaces"],
            resources=["*"],
        )
        # These policies belong to this stack, their roles to another. In the roles themselves they would make that
        # stack depend on this one.
        iam.Policy(self, "StopsRuns", roles=[roles.webserver], statements=[stops, looks])
        iam.Policy(
            self,
            "StartsRuns",
            roles=[roles.daemon],
            statements=[stops, looks, *self._starting(cluster, roles), _reading(telemetry)],
        )

    def _starting(self, cluster: ecs.ICluster, roles: Roles) -> list[iam.PolicyStatement]:
        """Return the rights to start the run task of each queue, and to pass its two roles."""
        run = iam.PolicyStatement(
            sid="StartRuns",
            actions=["ecs:RunTask"],
            resources=[run.task_definition_arn for run in self.runs.values()],
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
            resources=[roles.run.role_arn, *(run.obtain_execution_role().role_arn for run in self.runs.values())],
            conditions={"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}},
        )
        return [run, tag, hand_on]

    def _launched_as(self, run: ecs.FargateTaskDefinition, queue: str) -> dict[str, str]:
        """Return the variables that select another task for the launcher than the one in dagster.yaml."""
        task = {"task_definition_arn": run.task_definition_arn, "container_name": for_queue("run", queue)}
        return {"DAGSTER_CONTAINER_CONTEXT": cdk.Stack.of(self).to_json_string({"ecs": task})} if queue else {}

    def _service(
        self, part: str, task: ecs.FargateTaskDefinition, group: ec2.ISecurityGroup, scope: Construct | None = None
    ) -> ecs.FargateService:
        size, where = SIZES[part], scope or self
        limits: dict[str, Any] = {
            "min_healthy_percent": 100 * size.stay // size.count,
            "max_healthy_percent": 100 * (size.count + size.more) // size.count,
        }
        return ecs.FargateService(
            where,
            f"{part}Service",
            cluster=self._cluster,
            task_definition=task,
            desired_count=size.count,
            vpc_subnets=TASKS,
            security_groups=[as_it_is(where, f"{part}ServiceGroup", group)],
            assign_public_ip=False,
            # A version that does not start is rolled back.
            circuit_breaker=ecs.DeploymentCircuitBreaker(rollback=True),
            enable_execute_command=False,
            propagate_tags=ecs.PropagatedTagSource.SERVICE,
            **limits,
        )


def _at_home_with(further: Mapping[str, str]) -> str:
    """Return shell lines that create a DAGSTER_HOME with the further queues, given their hosts by name.

    No file of the image contains their code locations, and the limits in its dagster.yaml are for the runs of one
    queue. Dagster reads these limits from no variable.
    """
    locations = [
        {"grpc_server": {"host": host, "port": GRPC_PORT, "location_name": name}} for name, host in further.items()
    ]
    places = MOST_RUNS * (1 + len(further)) + _OTHER_RUNS
    return f"""home="${{PGPASSFILE%/*}}/{_QUEUES_HOME.rpartition("/")[2]}"
mkdir -p "$home"
cat > "$home/workspace.yaml" <<'END'
{json.dumps({"load_from": locations})}
END
sed 's/^\\( *max_concurrent_runs:\\) .*/\\1 {places}/' "$DAGSTER_HOME/dagster.yaml" > "$home/dagster.yaml"
export DAGSTER_HOME="$home"
"""


def _on_tasks(cluster: ecs.ICluster, actions: Sequence[str]) -> iam.PolicyStatement:
    return iam.PolicyStatement(
        sid="WatchAndStopTasks",
        actions=list(actions),
        resources=["*"],
        conditions={"ArnEquals": {"ecs:cluster": cluster.cluster_arn}},
    )


def _reading(telemetry: Telemetry) -> iam.PolicyStatement:
    """Return the right to read the last log lines of a run that died."""
    return iam.PolicyStatement(
        sid="SayWhatARunSaidLast",
        actions=["logs:GetLogEvents"],
        resources=[telemetry.parts["run"].log_group_arn, f"{telemetry.parts['run'].log_group_arn}:log-stream:*"],
    )
