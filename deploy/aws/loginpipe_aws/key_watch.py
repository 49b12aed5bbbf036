"""Report all use of the token and seal keys other than the daily use. The account must have CloudTrail enabled."""

from collections.abc import Sequence
from typing import Any, Final

import aws_cdk as cdk
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_kms as kms
from aws_cdk import aws_sns as sns
from constructs import Construct

UNKNOWN_ACCOUNT: Final = "@aws-cdk/aws-events:ruleUnresolvedEnvironment"
"""The CDK's warning if the account is known only at deployment."""

_CHANGES: Final = ("CreateGrant", "DisableKey", "PutKeyPolicy", "ScheduleKeyDeletion")


class KeyWatch(Construct):
    """Two rules: one for changes of any key, one for each time that sealed values are opened."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        topic_arn: str,
        tokens: Sequence[kms.Key],
        seal: kms.Key,
    ) -> None:
        super().__init__(scope, construct_id)
        # Imported by its ARN, because `Telemetry` already allows events to publish, so the CDK need not add it.
        topic = sns.Topic.from_topic_arn(self, "Topic", topic_arn)
        cdk.Annotations.of(self).acknowledge_warning(UNKNOWN_ACCOUNT, "the topic is in the account of the rules")
        _rule(self, "Changes", topic, "a key was changed", keys=[*tokens, seal], calls=_CHANGES)
        opened: Any = _rule(self, "Openings", topic, "sealed values were opened", keys=[seal], calls=["Decrypt"])
        # By default, read-only events are not delivered.
        opened.node.default_child.add_property_override("State", "ENABLED_WITH_ALL_CLOUDTRAIL_MANAGEMENT_EVENTS")


def _rule(
    scope: Construct, name: str, topic: sns.ITopic, says: str, *, keys: Sequence[kms.Key], calls: Sequence[str]
) -> events.Rule:
    return events.Rule(
        scope,
        name,
        description=f"loginpipe, {says}",
        event_pattern=events.EventPattern(
            source=["aws.kms"],
            detail_type=["AWS API Call via CloudTrail"],
            detail={"eventName": list(calls), "resources": {"ARN": [key.key_arn for key in keys]}},
        ),
        targets=[targets.SnsTopic(topic)],
    )
