"""Create the targets of log lines and alarms: an encrypted log group with a retention for each part, and the topic."""

from typing import Any, Final

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from constructs import Construct

from loginpipe_aws.naming import KEPT, named

PARTS: Final = ("webserver", "daemon", "code-server", "run", "metrics", "setup")

_RETENTION: Final = logs.RetentionDays.ONE_YEAR


class Telemetry(Construct):
    """Log groups with fixed names, and a topic that CloudWatch, EventBridge and loginpipe publish to."""

    def __init__(self, scope: Construct, construct_id: str, *, key: kms.Key, alert_email: str | None) -> None:
        super().__init__(scope, construct_id)
        self.parts = {part: _log_group(self, part.title().replace("-", ""), f"/{{}}/{part}", key) for part in PARTS}
        self.flows = _log_group(self, "Flows", "/{}/network", key)
        self.database = [
            _log_group(self, f"Database{kind.title()}", f"/aws/rds/instance/{{}}/{kind}", key)
            for kind in ("postgresql", "upgrade")
        ]
        self.topic = sns.Topic(
            self,
            "Alerts",
            topic_name=named(self, "{}-alerts"),
            display_name="loginpipe",
            master_key=key,
            enforce_ssl=True,
        )
        self._let(
            "Alarms", "cloudwatch", conditions={"StringEquals": {"aws:SourceAccount": cdk.Stack.of(self).account}}
        )
        # No condition, because it is not documented which account EventBridge sends with a publish request.
        self._let("Events", "events", conditions=None)
        if alert_email:
            self.topic.add_subscription(subscriptions.EmailSubscription(alert_email))

    def _let(self, sid: str, service: str, *, conditions: dict[str, Any] | None) -> None:
        self.topic.add_to_resource_policy(
            iam.PolicyStatement(
                sid=sid,
                principals=[iam.ServicePrincipal(f"{service}.amazonaws.com")],
                actions=["sns:Publish"],
                resources=[self.topic.topic_arn],
                conditions=conditions,
            )
        )


def _log_group(scope: Construct, construct_id: str, name: str, key: kms.IKey) -> logs.LogGroup:
    return logs.LogGroup(
        scope,
        construct_id,
        log_group_name=named(scope, name),
        encryption_key=key,
        retention=_RETENTION,
        removal_policy=KEPT,
    )
