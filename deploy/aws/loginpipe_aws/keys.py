"""Create the KMS keys: three encrypt data of services, the token key makes MACs, and the RSA seal key seals values.

The policies of the token and the seal key let administrators of the account manage them, but IAM alone does not allow
the use of a key. The policy of the key names its users, with the same statements as in ``deploy/aws/policies``. Only
custodians can open values.
"""

from collections.abc import Sequence
from typing import Any, Final

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from constructs import Construct

from loginpipe_aws.naming import KEPT, named
from loginpipe_aws.policies import on_key

TOKEN_KEY: Final = "arn:aws:kms:REGION:ACCOUNT:key/TOKEN_KEY"  # noqa: S105 - a name, no secret
SEAL_KEY: Final = "arn:aws:kms:REGION:ACCOUNT:key/SEAL_KEY"

_MANAGE: Final = [
    "kms:CancelKeyDeletion", "kms:CreateAlias", "kms:DeleteAlias", "kms:DescribeKey", "kms:DisableKey",
    "kms:EnableKey", "kms:GetKeyPolicy", "kms:GetKeyRotationStatus", "kms:ListGrants", "kms:ListKeyPolicies",
    "kms:ListResourceTags", "kms:PutKeyPolicy", "kms:RevokeGrant", "kms:ScheduleKeyDeletion", "kms:TagResource",
    "kms:UntagResource", "kms:UpdateAlias", "kms:UpdateKeyDescription",
    # Public information: a deployment pins its fingerprint.
    "kms:GetPublicKey",
]  # fmt: skip
_DELETION_DAYS: Final = 30


class DataKeys(Construct):
    """Symmetric keys for the queue, for data at rest, and for logs and alerts. KMS rotates them once a year."""

    def __init__(self, scope: Construct, construct_id: str) -> None:
        super().__init__(scope, construct_id)
        self.queue = _symmetric(self, "Queue", "loginpipe: messages on the login queue")
        self.data = _symmetric(self, "Data", "loginpipe: database, secrets, images")
        self.telemetry = _symmetric(self, "Telemetry", "loginpipe: logs and alerts")
        stack = cdk.Stack.of(self)
        self.telemetry.add_to_resource_policy(
            iam.PolicyStatement(
                sid="Logs",
                principals=[iam.ServicePrincipal(f"logs.{stack.region}.amazonaws.com")],
                actions=["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey"],
                resources=["*"],
                conditions={
                    "ArnLike": {
                        "kms:EncryptionContext:aws:logs:arn": f"arn:aws:logs:{stack.region}:{stack.account}:log-group:*"
                    }
                },
            )
        )
        self.telemetry.add_to_resource_policy(
            iam.PolicyStatement(
                sid="AlarmsAndEventsToTheTopic",
                principals=[
                    iam.ServicePrincipal("cloudwatch.amazonaws.com"),
                    iam.ServicePrincipal("events.amazonaws.com"),
                ],
                actions=["kms:Decrypt", "kms:GenerateDataKey*"],
                resources=["*"],
            )
        )


class PersonalDataKeys(Construct):
    """The token key in each of its versions, and the seal key."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        versions: int,
        pipeline: Sequence[iam.IRole],
        custodian: iam.IRole,
        auditor: iam.IRole,
        administrator: iam.IRole,
        second_factor: bool,
    ) -> None:
        # `second_factor`: True if sessions of the custodian's role prove a second factor.
        super().__init__(scope, construct_id)
        people = {
            "custodian": [custodian],
            "auditor": [auditor],
            "key-administrator": [administrator],
            "pipeline": list(pipeline),
        }
        self.tokens = [
            kms.Key(
                self,
                f"TokensV{version}",
                alias=named(self, f"{{}}/tokens-v{version}"),
                description=f"loginpipe: tokens of version {version}",
                key_spec=kms.KeySpec.HMAC_256,
                key_usage=kms.KeyUsage.GENERATE_VERIFY_MAC,
                policy=_policy(
                    TOKEN_KEY, people, [*pipeline, custodian], ["kms:GenerateMac", "kms:VerifyMac"], second_factor
                ),
                pending_window=cdk.Duration.days(_DELETION_DAYS),
                removal_policy=KEPT,
            )
            for version in range(1, versions + 1)
        ]
        self.seal = kms.Key(
            self,
            "Seal",
            alias=named(self, "{}/seal"),
            description="loginpipe: opens what the pipeline sealed",
            key_spec=kms.KeySpec.RSA_3072,
            key_usage=kms.KeyUsage.ENCRYPT_DECRYPT,
            policy=_policy(SEAL_KEY, people, [custodian], ["kms:Decrypt", "kms:ReEncrypt*"], second_factor),
            pending_window=cdk.Duration.days(_DELETION_DAYS),
            removal_policy=KEPT,
        )

    @property
    def token_keys_uri(self) -> str:
        """Return the value of LOGINPIPE_TOKEN_KEYS."""
        return "awskms:" + ",".join(f"v{version}={key.key_arn}" for version, key in enumerate(self.tokens, 1))

    @property
    def seal_key_uri(self) -> str:
        """Return the value of LOGINPIPE_SEAL_KEY."""
        return f"awskms:{self.seal.key_arn}"


def _symmetric(scope: Construct, name: str, description: str) -> kms.Key:
    return kms.Key(
        scope,
        name,
        alias=named(scope, f"{{}}/{name.lower()}"),
        description=description,
        enable_key_rotation=True,
        pending_window=cdk.Duration.days(_DELETION_DAYS),
        removal_policy=KEPT,
    )


def _policy(
    key: str, people: dict[str, list[iam.IRole]], users: Sequence[iam.IRole], uses: Sequence[str], second_factor: bool
) -> iam.PolicyDocument:
    """Return the policy of a key: management by IAM, use for the named principals, and denial of use for all others."""
    manage: dict[str, Any] = {
        "Sid": "ManageByIam",
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:{cdk.Aws.PARTITION}:iam::{cdk.Aws.ACCOUNT_ID}:root"},
        "Action": _MANAGE,
        "Resource": "*",
    }
    refuse: dict[str, Any] = {
        "Sid": "NobodyElseUsesIt",
        "Effect": "Deny",
        "Principal": {"AWS": "*"},
        "Action": [*uses, "kms:CreateGrant"],
        "Resource": "*",
        "Condition": {"StringNotEquals": {"aws:PrincipalArn": [role.role_arn for role in users]}},
    }
    by_name = [
        statement
        for name, roles in people.items()
        for statement in on_key(name, key, [role.role_arn for role in roles], second_factor=second_factor)
    ]
    return iam.PolicyDocument.from_json({"Version": "2012-10-17", "Statement": [manage, *by_name, refuse]})
