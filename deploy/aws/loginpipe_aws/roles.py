"""Create the AWS roles of tasks and people. ``deploy/aws/policies`` defines most of their rights."""

from collections.abc import Mapping, Sequence
from typing import Final

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_rds as rds
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sns as sns
from constructs import Construct

from loginpipe_aws.database import LOGINS
from loginpipe_aws.keys import SEAL_KEY, TOKEN_KEY, DataKeys, PersonalDataKeys
from loginpipe_aws.naming import named
from loginpipe_aws.policies import Resources, attach, statements
from loginpipe_aws.queue import LoginQueue
from loginpipe_aws.storage import ARCHIVE_PREFIX

COMPUTE_LOGS_PREFIX: Final = "dagster"

_SECOND_FACTOR: Final = {"Bool": {"aws:MultiFactorAuthPresent": "true"}}
_DATABASE_USER: Final = "arn:aws:rds-db:REGION:ACCOUNT:dbuser:DATABASE"

_READS_DEPTHS: Final = ("LookAtTheQueues", "SeeWhoSharesTheDeadLetterQueue")
_EVALUATES_SENSORS: Final = (
    *_READS_DEPTHS,
    "TellOfWhatIsWrong",
    "ConnectToTheWarehouse",
    "ConnectToDagstersStorage",
    "NeverOpenWhatWasSealed",
)


class Roles(Construct):
    """The roles of tasks, which ECS assumes, and the roles of people."""

    def __init__(self, scope: Construct, construct_id: str, *, people: Mapping[str, Sequence[str]]) -> None:
        super().__init__(scope, construct_id)
        self.run = _task_role(self, "Run", "runs: take logins from the queue to the table")
        self.code_server = _task_role(self, "CodeServer", "the code server: evaluates sensors and schedules")
        self.daemon = _task_role(self, "Daemon", "the daemon: starts runs and watches them")
        self.webserver = _task_role(self, "Webserver", "the UI: shows runs and stops them")
        self.setup = _task_role(self, "Setup", "one-off tasks: nothing but the database")
        self.redrive = _task_role(self, "Redrive", "a one-off task: moves dead letters back to the queue")
        self.metrics = _task_role(self, "Metrics", "the metrics: counts, and changes nothing")
        self.custodian = _person_role(self, "custodian", "opens sealed values, on record", people["custodian"])
        self.auditor = _person_role(self, "auditor", "sees who may use the keys, and who did", people["auditor"])
        self.key_administrator = _person_role(
            self, "key-administrator", "manages keys and uses none", people["key_administrator"]
        )
        # If another role's session assumes the role, the new session does not prove a second factor, even if the person
        # used one.
        self.second_factor = not any(_is_role(arn) for arn in people["custodian"])

    def grant(
        self,
        *,
        queues: Sequence[LoginQueue],
        keys: DataKeys,
        personal: PersonalDataKeys,
        archive: s3.IBucket,
        compute_logs: s3.IBucket,
        topic: sns.ITopic,
        database: rds.DatabaseInstance,
    ) -> Resources:
        """Grant every role its rights on the resources that now exist; return these resources."""
        stack = cdk.Stack.of(self)
        resources: Resources = {
            "arn:aws:sqs:REGION:ACCOUNT:QUEUE": [queue.logins.queue_arn for queue in queues],
            "arn:aws:sqs:REGION:ACCOUNT:DEAD_LETTER_QUEUE": [queue.dead_letters.queue_arn for queue in queues],
            "arn:aws:s3:::BUCKET": archive.bucket_arn,
            "arn:aws:s3:::BUCKET/PREFIX/*": archive.arn_for_objects(f"{ARCHIVE_PREFIX}/*"),
            "PREFIX/*": f"{ARCHIVE_PREFIX}/*",
            "arn:aws:kms:REGION:ACCOUNT:key/QUEUE_KEY": keys.queue.key_arn,
            "sqs.REGION.amazonaws.com": f"sqs.{stack.region}.amazonaws.com",
            "arn:aws:sns:REGION:ACCOUNT:ALERT_TOPIC": topic.topic_arn,
            **{
                f"{_DATABASE_USER}/{login}": stack.format_arn(
                    service="rds-db",
                    resource="dbuser",
                    resource_name=f"{database.instance_resource_id}/{login}",
                    arn_format=cdk.ArnFormat.COLON_RESOURCE_NAME,
                )
                for login in LOGINS.values()
            },
            TOKEN_KEY: [key.key_arn for key in personal.tokens],
            SEAL_KEY: personal.seal.key_arn,
        }
        attach(self.run, statements("pipeline", resources))
        attach(self.code_server, statements("pipeline", resources, _EVALUATES_SENSORS))
        attach(self.redrive, statements("redrive", resources))
        attach(self.redrive, statements("pipeline", resources, ("ConnectToTheWarehouse",)))
        attach(self.metrics, statements("pipeline", resources, (*_READS_DEPTHS, "ConnectToTheWarehouse")))
        for role in (self.daemon, self.webserver):
            attach(role, statements("pipeline", resources, ("ConnectToDagstersStorage",)))
        attach(self.custodian, statements("custodian", resources, second_factor=self.second_factor))
        attach(self.auditor, statements("auditor", resources))
        attach(self.key_administrator, statements("key-administrator", resources))

        for role in (self.run, self.code_server):
            role.add_to_policy(_via("sns", keys.telemetry, "EncryptTheAlert", stack))
            role.add_to_policy(_objects(compute_logs, "KeepWhatIsPrinted", "s3:PutObject"))
        self.webserver.add_to_policy(_objects(compute_logs, "ShowWhatWasPrinted", "s3:GetObject"))
        self.webserver.add_to_policy(
            # Without this right, S3 reports "forbidden" instead of "not found" for a missing object.
            iam.PolicyStatement(sid="ListIt", actions=["s3:ListBucket"], resources=[compute_logs.bucket_arn])
        )
        return resources


def _task_role(scope: Construct, name: str, description: str) -> iam.Role:
    stack = cdk.Stack.of(scope)
    return iam.Role(
        scope,
        name,
        description=f"loginpipe, {description}",
        assumed_by=iam.ServicePrincipal(
            "ecs-tasks.amazonaws.com", conditions={"StringEquals": {"aws:SourceAccount": stack.account}}
        ),
    )


def _person_role(scope: Construct, name: str, description: str, arns: Sequence[str]) -> iam.Role:
    """Return a role that the given roles and users can assume. If none are given, IAM in the account decides."""
    return iam.Role(
        scope,
        name.title().replace("-", ""),
        # The region is part of the name, because role names are unique in the whole account.
        role_name=named(scope, f"{{}}-{name}-{cdk.Stack.of(scope).region}"),
        description=f"loginpipe: {description}",
        assumed_by=_people(arns),
        max_session_duration=cdk.Duration.hours(1),
    )


def _people(arns: Sequence[str]) -> iam.IPrincipal:
    """Return who can assume a role: users with a second factor, and roles, whose sign-in has required one.

    Uses the account and a condition. If a policy names a role as principal, IAM resolves the role when the policy is
    written, and does not recognize it after Identity Center has created it again.
    """
    if not arns:
        return iam.AccountRootPrincipal().with_conditions(_SECOND_FACTOR)
    kinds: dict[tuple[str, bool], list[str]] = {}
    for arn in arns:
        kinds.setdefault((arn.split(":")[4], _is_role(arn)), []).append(arn)
    return iam.CompositePrincipal(
        *(
            iam.AccountPrincipal(account).with_conditions(
                {"ArnLike": {"aws:PrincipalArn": those}} | ({} if are_roles else _SECOND_FACTOR)
            )
            for (account, are_roles), those in kinds.items()
        )
    )


def _is_role(arn: str) -> bool:
    return arn.split(":")[5].startswith("role/")


def _via(service: str, key: kms.IKey, sid: str, stack: cdk.Stack) -> iam.PolicyStatement:
    return iam.PolicyStatement(
        sid=sid,
        actions=["kms:GenerateDataKey", "kms:Decrypt"],
        resources=[key.key_arn],
        conditions={"StringEquals": {"kms:ViaService": f"{service}.{stack.region}.amazonaws.com"}},
    )


def _objects(bucket: s3.IBucket, sid: str, *actions: str) -> iam.PolicyStatement:
    return iam.PolicyStatement(
        sid=sid, actions=list(actions), resources=[bucket.arn_for_objects(f"{COMPUTE_LOGS_PREFIX}/*")]
    )
