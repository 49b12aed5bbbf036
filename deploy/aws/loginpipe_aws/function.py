"""AWS Lambda as the consumer: the function that is called with batches of the queue, its rights, and its alarms.

It is created if the value ``consumer`` is ``lambda`` or ``both``. Its role, which the policies of the keys name, and
its log group belong to the data stack.
"""

from collections.abc import Mapping
from typing import Final

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cw
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_rds as rds
from aws_cdk import aws_secretsmanager as sm
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from loginpipe_aws.containers import RDS_CA
from loginpipe_aws.naming import KEPT, named
from loginpipe_aws.network import TASKS, Network, as_it_is
from loginpipe_aws.policies import Resources, attach, statements

FUNCTION: Final = "{}-logins"
"""The pattern of its name: see `loginpipe_aws.naming.named`."""
TIMEOUT_SECONDS: Final = 60
VISIBILITY_SECONDS: Final = 6 * TIMEOUT_SECONDS
"""For the queue, as AWS recommends, so that throttled calls are retried within it."""

# One core, because Lambda assigns CPU by memory. A full batch needs 200 MB.
_MEMORY_MIB: Final = 1_769
_BATCH_MESSAGES: Final = 10_000
_WINDOW_SECONDS: Final = 1
# The share of the function: each environment has one connection. The rest is for runs, Dagster and people.
_CONNECTIONS_FOR_IT: Final = 0.25
_MIN_CONCURRENCY: Final = 2
_MAX_CONCURRENCY: Final = 1_000

_MAY: Final = (
    "ReceiveAndDelete",
    "LookAtTheQueues",
    "OpenTheQueueItself",
    "DeriveTokenKeys",
    "SealOnly",
    "NeverOpenWhatWasSealed",
)
# The settings of the pipeline that a call reads: docs/lambda.md. The event contains the queue.
_SETTINGS: Final = frozenset({
    "LOGINPIPE_BRAKE", "LOGINPIPE_COMPAT_SALT", "LOGINPIPE_ENV", "LOGINPIPE_ENVELOPE", "LOGINPIPE_EXTRA_FIELDS",
    "LOGINPIPE_LOG_LEVEL", "LOGINPIPE_MASKING", "LOGINPIPE_PLACEHOLDERS", "LOGINPIPE_RUNBOOK_URL", "LOGINPIPE_SEAL_KEY",
    "LOGINPIPE_SEAL_KEY_FINGERPRINT", "LOGINPIPE_TABLE", "LOGINPIPE_TOKEN_KEYS", "LOGINPIPE_UNKNOWN_FIELDS",
})  # fmt: skip
_OF_THE_NETWORK: Final = (
    "ec2:AssignPrivateIpAddresses", "ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface",
    "ec2:DescribeNetworkInterfaces", "ec2:DetachNetworkInterface", "ec2:UnassignPrivateIpAddresses",
)  # fmt: skip

EXCEPTIONS: Final = (
    ("Function/Function", "CKV_AWS_115", "the mapping's maximum concurrency limits it, and the queue keeps the rest"),
    ("Function/Function", "CKV_AWS_116", "it is not called asynchronously: the queue has a dead-letter queue"),
    ("Function/Function", "CKV_AWS_173", "its variables hold no secret: the database's password is looked up"),
)
"""Exceptions from checkov's rules: see `loginpipe_aws.exceptions`."""


def max_concurrency(connections: int) -> int:
    """Return the maximum number of concurrent calls for a queue: its share of the database's ``max_connections``."""
    return min(_MAX_CONCURRENCY, max(_MIN_CONCURRENCY, int(connections * _CONNECTIONS_FOR_IT)))


class FunctionData(Construct):
    """The role of the function and its log group."""

    def __init__(self, scope: Construct, construct_id: str, *, key: kms.IKey) -> None:
        super().__init__(scope, construct_id)
        stack = cdk.Stack.of(self)
        self.role = iam.Role(
            self,
            "Role",
            description="loginpipe, the function: takes logins from the queue to the table",
            assumed_by=iam.ServicePrincipal(
                "lambda.amazonaws.com", conditions={"StringEquals": {"aws:SourceAccount": stack.account}}
            ),
            managed_policies=[
                iam.ManagedPolicy.from_aws_managed_policy_name("service-role/AWSLambdaENIManagementAccess")
            ],
        )
        self.log_group = logs.LogGroup(
            self,
            "Log",
            log_group_name=named(self, "/{}/function"),
            encryption_key=key,
            retention=logs.RetentionDays.ONE_YEAR,
            removal_policy=KEPT,
        )

    def grant(self, resources: Resources, *, login: sm.ISecret, key: kms.IKey) -> None:
        """Grant the role the rights to record a batch.

        Args:
            resources: as for `loginpipe_aws.policies.statements`.
            login: the secret of the pipeline's database login.
            key: the key that encrypts this secret.
        """
        stack = cdk.Stack.of(self)
        attach(self.role, statements("pipeline", resources, _MAY))
        self.role.add_to_policy(
            iam.PolicyStatement(
                sid="ReadThePassword", actions=["secretsmanager:GetSecretValue"], resources=[login.secret_arn]
            )
        )
        self.role.add_to_policy(
            iam.PolicyStatement(
                sid="DecryptThePassword",
                actions=["kms:Decrypt"],
                resources=[key.key_arn],
                conditions={"StringEquals": {"kms:ViaService": f"secretsmanager.{stack.region}.amazonaws.com"}},
            )
        )
        self.role.add_to_policy(
            iam.PolicyStatement(
                sid="WriteTheLog",
                actions=["logs:CreateLogStream", "logs:PutLogEvents"],
                resources=[f"{self.log_group.log_group_arn}:*"],
            )
        )
        # Lambda itself uses these rights of the role to connect the function to the network. The code does not need
        # them.
        self.role.add_to_policy(
            iam.PolicyStatement(
                sid="LeaveTheNetworkToLambda",
                effect=iam.Effect.DENY,
                actions=list(_OF_THE_NETWORK),
                resources=["*"],
                conditions={
                    "ArnEquals": {
                        "lambda:SourceFunctionArn": stack.format_arn(
                            service="lambda",
                            resource="function",
                            resource_name=named(self, FUNCTION),
                            arn_format=cdk.ArnFormat.COLON_RESOURCE_NAME,
                        )
                    }
                },
            )
        )


class LoginFunction(Construct):
    """The function, an event source mapping for each queue, and its alarms."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        data: FunctionData,
        network: Network,
        images: ecr.IRepository,
        image_tag: str,
        queues: Mapping[str, sqs.IQueue],
        instance: rds.IDatabaseInstance,
        connections: int,
        login: sm.ISecret,
        settings: Mapping[str, str],
        topic_arn: str,
    ) -> None:
        # `queues`: by name; the login queue has no name. `settings`: the variables of the pipeline.
        super().__init__(scope, construct_id)
        self.function = lambda_.Function(
            self,
            "Function",
            function_name=named(self, FUNCTION),
            description="loginpipe: login events from the queue into user_logins",
            code=lambda_.Code.from_ecr_image(images, tag_or_digest=f"{image_tag}-lambda"),
            handler=lambda_.Handler.FROM_IMAGE,
            runtime=lambda_.Runtime.FROM_IMAGE,
            architecture=lambda_.Architecture.X86_64,
            memory_size=_MEMORY_MIB,
            timeout=cdk.Duration.seconds(TIMEOUT_SECONDS),
            role=data.role,
            log_group=data.log_group,
            logging_format=lambda_.LoggingFormat.JSON,
            vpc=network.vpc,
            vpc_subnets=TASKS,
            security_groups=[as_it_is(self, "Group", network.tasks)],
            environment={
                **{name: value for name, value in settings.items() if name in _SETTINGS},
                "LOGINPIPE_DATABASE_URL": f"secretsmanager:{login.secret_arn}",
                "PGHOST": instance.db_instance_endpoint_address,
                "PGPORT": "5432",
                "PGDATABASE": "loginpipe",
                "PGSSLMODE": "verify-full",
                "PGSSLROOTCERT": RDS_CA,
            },
        )
        for name, queue in queues.items():
            lambda_.EventSourceMapping(
                self,
                f"Logins{name.title()}",
                target=self.function,
                event_source_arn=queue.queue_arn,
                batch_size=_BATCH_MESSAGES,
                max_batching_window=cdk.Duration.seconds(_WINDOW_SECONDS),
                max_concurrency=max_concurrency(connections // len(queues)),
                report_batch_item_failures=True,
            )
        # The age of the oldest message, which has an alarm with either consumer, replaces the iterator age.
        self._topic = sns.Topic.from_topic_arn(self, "Topic", topic_arn)
        period = cdk.Duration.minutes(5)
        self._alarm("Errors", self.function.metric_errors(period=period), 0, "calls fail: a-run-fails")
        self._alarm("Throttles", self.function.metric_throttles(period=period), 0, "calls are throttled")
        self._alarm(
            "NearlyOutOfTime",
            self.function.metric_duration(statistic="Maximum", period=period),
            0.8 * TIMEOUT_SECONDS * 1000,
            "calls take nearly all of their time",
        )

    def _alarm(self, construct_id: str, metric: cw.Metric, over: float, says: str) -> None:
        alarm = cw.Alarm(
            self,
            construct_id,
            metric=metric,
            comparison_operator=cw.ComparisonOperator.GREATER_THAN_THRESHOLD,
            threshold=over,
            # A single failed call is retried automatically.
            evaluation_periods=2,
            treat_missing_data=cw.TreatMissingData.NOT_BREACHING,
            alarm_description=f"loginpipe, {says}",
        )
        action = actions.SnsAction(self._topic)
        alarm.add_alarm_action(action)
        alarm.add_ok_action(action)
