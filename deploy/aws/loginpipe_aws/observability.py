"""Create alarms and the dashboard from metrics of AWS and of loginpipe. All alarms go to one topic."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cw
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_elasticloadbalancingv2 as elb
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_rds as rds
from aws_cdk import aws_sns as sns
from constructs import Construct

from loginpipe_aws.containers import scope_for
from loginpipe_aws.key_watch import UNKNOWN_ACCOUNT
from loginpipe_aws.naming import named
from loginpipe_aws.queue import LoginQueue

_OLDEST_SECONDS: Final = 900
"""The default of LOGINPIPE_MAX_DELAY_SECONDS."""
_IN_FLIGHT: Final = 114_000
"""From this number on, loginpipe itself reports the limit. SQS delivers nothing more at about 120,000."""
# As in docs/metrics.md.
_COUNTS: Final = (
    "loginpipe_messages_received_total",
    "loginpipe_messages_inserted_total",
    "loginpipe_messages_rejected_total",
    "loginpipe_messages_duplicates_total",
)
_BUSY_PERCENT: Final = 80
_FREE: Final = 0.2
_IS_WELL: Final = cw.TreatMissingData.NOT_BREACHING
_IS_BAD: Final = cw.TreatMissingData.BREACHING
_OVER: Final = cw.ComparisonOperator.GREATER_THAN_THRESHOLD
_UNDER: Final = cw.ComparisonOperator.LESS_THAN_THRESHOLD


class Observability(Construct):
    """The alarms, and the dashboard that people check after an alarm."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        topic_arn: str,
        queues: Mapping[str, LoginQueue],
        instance: rds.IDatabaseInstance,
        storage_gib: int,
        connections: int,
        cluster: ecs.ICluster,
        services: dict[str, ecs.FargateService],
        target: elb.ApplicationTargetGroup,
        runs: Sequence[ecs.FargateTaskDefinition],
    ) -> None:
        # `queues`: by name; the login queue has no name.
        super().__init__(scope, construct_id)
        # Imported by its ARN, because `Telemetry` already allows alarms and events to publish, so the CDK need not add
        # it.
        self._topic = sns.Topic.from_topic_arn(self, "Topic", topic_arn)
        cdk.Annotations.of(self).acknowledge_warning(UNKNOWN_ACCOUNT, "the topic is in the account of the rules")
        free = instance.metric_free_storage_space(statistic="Minimum", period=_minutes(5))
        cpu = instance.metric_cpu_utilization(period=_minutes(5))
        connected = instance.metric_database_connections(statistic="Maximum", period=_minutes(5))
        unhealthy = target.metrics.unhealthy_host_count(statistic="Maximum", period=_minutes(1))
        running = {name: _running(cluster, service) for name, service in services.items()}

        rows = [row for name, queue in queues.items() for row in self._watch(name, queue)]
        least = int(storage_gib * 2**30 * _FREE)
        self._alarm("DatabaseStorage", free, under=least, says="the database's disk is filling up")
        self._alarm("DatabaseCpu", cpu, over=_BUSY_PERCENT, periods=3, says="the database is busy: the-backlog-grows")
        most = int(connections * _BUSY_PERCENT / 100)
        self._alarm("DatabaseConnections", connected, over=most, periods=2, says="connections to the database run out")
        self._alarm("UiUnhealthy", unhealthy, over=0, periods=5, says="a web server does not answer")
        for name, metric in running.items():
            # A task that sends no metrics is not running.
            self._alarm(f"No{name}", metric, under=1, periods=3, says=f"no {name} runs", missing=_IS_BAD)

        self._tell(
            "RunsThatDied",
            "a task of a run died: a-run-fails",
            of="ECS Task State Change",
            detail={
                "clusterArn": [cluster.cluster_arn],
                "lastStatus": ["STOPPED"],
                "taskDefinitionArn": [run.task_definition_arn for run in runs],
                "containers": {"exitCode": [{"anything-but": [0]}]},
            },
        )
        self._tell(
            "TasksThatDidNotStart",
            "a task could not be started",
            of="ECS Task State Change",
            detail={
                "clusterArn": [cluster.cluster_arn],
                "lastStatus": ["STOPPED"],
                "stopCode": ["TaskFailedToStart"],
            },
        )
        self._tell(
            "DeploymentsThatFailed",
            "a new version did not come up and was taken back",
            of="ECS Deployment State Change",
            detail={"eventName": ["SERVICE_DEPLOYMENT_FAILED"]},
            resources=[service.service_arn for service in services.values()],
        )
        board = cw.Dashboard(
            self,
            "Dashboard",
            dashboard_name=named(self, f"{{}}-{cdk.Stack.of(self).region}"),
            default_interval=cdk.Duration.hours(6),
        )
        for row in rows:
            board.add_widgets(*row)
        board.add_widgets(
            _plot("Database: CPU, %", cpu),
            _plot("Database: connections", connected),
            _plot("Database: free storage, bytes", free),
            _plot("Running tasks", *running.values()),
        )

    def _watch(self, name: str, queue: LoginQueue) -> Iterator[list[cw.GraphWidget]]:
        """Create the alarms of a queue; yield its rows of the dashboard."""
        where, of = scope_for(self, name), f"{name}, " if name else ""
        of_logins, of_dead = queue.logins, queue.dead_letters
        oldest = of_logins.metric_approximate_age_of_oldest_message(statistic="Maximum", period=_minutes(1))
        waiting = of_logins.metric_approximate_number_of_messages_visible(statistic="Maximum", period=_minutes(1))
        in_flight = of_logins.metric_approximate_number_of_messages_not_visible(statistic="Maximum", period=_minutes(1))
        dead = of_dead.metric_approximate_number_of_messages_visible(statistic="Maximum", period=_minutes(1))
        late, often, limit = (
            f"{of}{says}"
            for says in (
                "logins wait: nothing-arrives",
                "messages were received too often: dead-letters",
                "SQS gives out no more messages: in-flight-limit-reached",
            )
        )
        self._alarm("OldestMessage", oldest, over=_OLDEST_SECONDS, periods=5, says=late, scope=where)
        self._alarm("DeadLetters", dead, over=0, says=often, scope=where)
        self._alarm("InFlight", in_flight, over=_IN_FLIGHT, periods=2, says=limit, scope=where)
        title = f"{name}: " if name else ""
        yield [
            _plot(f"{title}Age of the oldest login, seconds", oldest),
            _plot(f"{title}Waiting", waiting),
            _plot(f"{title}In flight", in_flight),
            _plot(f"{title}Dead letters", dead),
        ]
        known_as = of_logins.queue_name
        yield [
            _plot(f"{title}Messages a minute", *(_metric(known_as, count, "Sum") for count in _COUNTS)),
            _plot(f"{title}Batches a minute", _metric(known_as, "loginpipe_batches_total", "Sum")),
            _plot(f"{title}Behind, seconds", _metric(known_as, "loginpipe_lag_seconds", "Maximum")),
            _plot(f"{title}Sealed values", _metric(known_as, "loginpipe_vault_values", "Maximum")),
        ]

    def _alarm(
        self,
        construct_id: str,
        metric: cw.Metric,
        *,
        says: str,
        over: float | None = None,
        under: float = 0,
        periods: int = 1,
        missing: cw.TreatMissingData = _IS_WELL,
        scope: Construct | None = None,
    ) -> None:
        alarm = cw.Alarm(
            scope or self,
            construct_id,
            metric=metric,
            comparison_operator=_UNDER if over is None else _OVER,
            threshold=under if over is None else over,
            evaluation_periods=periods,
            treat_missing_data=missing,
            alarm_description=f"loginpipe, {says}",
        )
        action = actions.SnsAction(self._topic)
        alarm.add_alarm_action(action)
        alarm.add_ok_action(action)

    def _tell(
        self, construct_id: str, says: str, *, of: str, detail: dict[str, Any], resources: list[str] | None = None
    ) -> None:
        events.Rule(
            self,
            construct_id,
            description=f"loginpipe, {says}",
            event_pattern=events.EventPattern(source=["aws.ecs"], detail_type=[of], detail=detail, resources=resources),
            targets=[targets.SnsTopic(self._topic)],
        )


def _running(cluster: ecs.ICluster, service: ecs.FargateService) -> cw.Metric:
    return cw.Metric(
        namespace="ECS/ContainerInsights",
        metric_name="RunningTaskCount",
        dimensions_map={"ClusterName": cluster.cluster_name, "ServiceName": service.service_name},
        statistic="Minimum",
        period=_minutes(1),
    )


def _metric(queue: str, name: str, statistic: str) -> cw.Metric:
    """Return a metric of loginpipe, from the log lines of its metrics task."""
    return cw.Metric(
        namespace="loginpipe",
        metric_name=name,
        dimensions_map={"queue": queue},
        statistic=statistic,
        period=_minutes(1),
    )


def _plot(title: str, *metrics: cw.IMetric) -> cw.GraphWidget:
    return cw.GraphWidget(title=title, left=list(metrics), width=6, left_y_axis=cw.YAxisProps(min=0))


def _minutes(number: int) -> cdk.Duration:
    return cdk.Duration.minutes(number)
