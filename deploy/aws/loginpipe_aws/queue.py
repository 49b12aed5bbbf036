"""Create the login queue and further queues, each encrypted and with a dead-letter queue, and allow senders."""

from collections.abc import Sequence
from typing import Final

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from loginpipe_aws.naming import KEPT, named

_MAX_RECEIVES: Final = 5
_RETENTION: Final = cdk.Duration.days(7)
_DEAD_LETTER_RETENTION: Final = cdk.Duration.days(14)
VISIBILITY_SECONDS: Final = 120


class LoginQueue(Construct):
    """``loginpipe-login-queue`` and ``loginpipe-login-queue-dlq``; a further queue has its name instead of login."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        key: kms.Key,
        sender_arns: Sequence[str],
        visibility_seconds: int = VISIBILITY_SECONDS,
        name: str = "",
    ) -> None:
        # `name`: the name of a further queue.
        super().__init__(scope, construct_id)
        queue_name = named(self, f"{{}}-{name or 'login'}-queue")
        self.dead_letters = sqs.Queue(
            self,
            "DeadLetters",
            queue_name=f"{queue_name}-dlq",
            encryption=sqs.QueueEncryption.KMS,
            encryption_master_key=key,
            enforce_ssl=True,
            # A message keeps its age when it moves here, so the retention is the maximum of SQS.
            retention_period=_DEAD_LETTER_RETENTION,
            removal_policy=KEPT,
        )
        self.logins = sqs.Queue(
            self,
            "Logins",
            queue_name=queue_name,
            encryption=sqs.QueueEncryption.KMS,
            encryption_master_key=key,
            enforce_ssl=True,
            retention_period=_RETENTION,
            visibility_timeout=cdk.Duration.seconds(visibility_seconds),
            receive_message_wait_time=cdk.Duration.seconds(20),
            dead_letter_queue=sqs.DeadLetterQueue(queue=self.dead_letters, max_receive_count=_MAX_RECEIVES),
            removal_policy=KEPT,
        )
        cfn = self.dead_letters.node.default_child
        cfn.redrive_allow_policy = {  # type: ignore[union-attr]
            "redrivePermission": "byQueue",
            "sourceQueueArns": [_arn_by_name(self, queue_name)],
        }
        for number, arn in enumerate(sender_arns):
            sender = iam.ArnPrincipal(arn)
            self.logins.add_to_resource_policy(
                iam.PolicyStatement(
                    sid=f"Send{number}",
                    principals=[sender],
                    actions=["sqs:SendMessage", "sqs:GetQueueUrl"],
                    resources=[self.logins.queue_arn],
                )
            )
            key.add_to_resource_policy(
                iam.PolicyStatement(
                    sid=f"EncryptWhatIsSent{name.title()}{number}",
                    principals=[sender],
                    actions=["kms:GenerateDataKey", "kms:Decrypt"],
                    resources=["*"],
                    conditions={"StringEquals": {"kms:ViaService": f"sqs.{cdk.Stack.of(self).region}.amazonaws.com"}},
                )
            )


def _arn_by_name(scope: Construct, name: str) -> str:
    """Return the ARN of a queue without a reference, because each of the two queues names the other."""
    return cdk.Stack.of(scope).format_arn(service="sqs", resource=name)
