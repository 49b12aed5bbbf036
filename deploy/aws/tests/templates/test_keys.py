"""Who may do what with the keys: every statement of every role, and of the keys themselves, evaluated together."""

import json
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk.assertions import Template

from conftest import AWS, EXAMPLE
from iam import ROOT, Account, allowed
from loginpipe_aws.context import foundation
from loginpipe_aws.stacks import DataStack

SEAL = ("AWS::KMS::Key", "PersonalDataSeal")
TOKENS = ("AWS::KMS::Key", "PersonalDataTokensV2")


def test_a_custodian_alone_decrypts_with_the_seal_key(account: Account) -> None:
    seal = account.one(*SEAL)
    assert account.who_may("kms:Decrypt", seal) == {"RolesCustodian"}
    assert account.who_may("kms:ReEncryptFrom", seal) == set()
    assert account.who_may("kms:DeriveSharedSecret", seal) == set()


def test_the_custodian_needs_a_second_factor_in_the_role_and_in_the_key(account: Account) -> None:
    custodian = account.one("AWS::IAM::Role", "RolesCustodian")
    seal = account.one(*SEAL)
    opens = [
        statement
        for statement in (*account.identity(custodian), *seal.properties["KeyPolicy"]["Statement"])
        if statement["Effect"] == "Allow"
        and "kms:Decrypt" in statement["Action"]
        and "ViaService" not in str(statement)
    ]
    assert len(opens) == 2
    for statement in opens:
        assert statement["Condition"]["Bool"] == {"aws:MultiFactorAuthPresent": "true"}
        assert statement["Condition"]["StringEquals"] == {"kms:EncryptionAlgorithm": "RSAES_OAEP_SHA_256"}
    trust = custodian.properties["AssumeRolePolicyDocument"]["Statement"]
    assert all(each["Condition"]["Bool"] == {"aws:MultiFactorAuthPresent": "true"} for each in trust)


CENTER = "arn:aws:iam::111122223333:role/aws-reserved/sso.amazonaws.com/eu-central-1/AWSReservedSSO_Custodian_*"
USER = "arn:aws:iam::111122223333:user/custodian"


@pytest.mark.parametrize(
    ("arns", "asked_when_opening"), [([CENTER, USER], False), ([USER], True)], ids=["both", "users"]
)
def test_those_alone_who_are_named_become_custodians_and_users_with_a_second_factor(
    arns: list[str], asked_when_opening: bool
) -> None:
    files = (AWS / "environments" / "production.json", EXAMPLE)
    values = {name: value for file in files for name, value in json.loads(file.read_text()).items()}
    flags = json.loads((AWS / "cdk.json").read_text())["context"]
    app = cdk.App(context={**flags, **values, "installation": "acme", "custodian_principal_arns": arns})
    account = Account({"LoginpipeData": Template.from_stack(DataStack(app, foundation(app.node))).to_json()})
    custodian = account.one("AWS::IAM::Role", "RolesCustodian")
    # The name is one of the whole account, whatever the region.
    assert custodian.properties["RoleName"] == "acme-custodian-eu-central-1"
    trust = custodian.properties["AssumeRolePolicyDocument"]["Statement"]
    assert {str(each["Principal"]["AWS"]) for each in trust} == {ROOT}
    by_arn = {str(each["Condition"]["ArnLike"]["aws:PrincipalArn"]): "Bool" in each["Condition"] for each in trust}
    # A session of Identity Center carries no mark of the factor that was asked for at its sign-in.
    assert by_arn == {str([arn]): arn == USER for arn in arns}
    seal = account.one(*SEAL)
    opens = [
        statement
        for statement in (*account.identity(custodian), *seal.properties["KeyPolicy"]["Statement"])
        if statement["Effect"] == "Allow"
        and "kms:Decrypt" in statement["Action"]
        and "ViaService" not in str(statement)
    ]
    assert ["Bool" in statement["Condition"] for statement in opens] == [asked_when_opening] * 2
    names = [
        str(value)
        for resource in account.resources
        for key, value in resource.properties.items()
        if key
        in {"AliasName", "QueueName", "LogGroupName", "DBInstanceIdentifier", "RepositoryName", "TopicName", "Name"}
        and resource.type not in {"AWS::EC2::Subnet", "AWS::EC2::FlowLog"}
    ]
    assert len(names) > 20
    assert [name for name in names if "acme" not in name] == []


@pytest.mark.parametrize(
    "action", ["kms:CreateGrant", "kms:PutKeyPolicy", "kms:ScheduleKeyDeletion", "kms:ReplicateKey"]
)
def test_no_role_of_these_stacks_can_give_itself_more_of_a_key(account: Account, action: str) -> None:
    for key in account.of("AWS::KMS::Key"):
        assert account.who_may(action, key) == set(), key.name


def test_runs_and_custodians_alone_make_tokens(account: Account) -> None:
    for key in (account.one(*TOKENS), account.one("AWS::KMS::Key", "PersonalDataTokensV1")):
        assert account.who_may("kms:GenerateMac", key) == {"RolesRun", "RolesCustodian"}
        assert account.who_may("kms:VerifyMac", key) == set()


def test_a_run_does_with_the_seal_key_what_sealing_takes_and_nothing_else(account: Account) -> None:
    run, seal = account.one("AWS::IAM::Role", "RolesRun"), account.one(*SEAL)
    assert account.may(run, "kms:GetPublicKey", seal)
    assert account.may(run, "kms:DescribeKey", seal)
    for action in ("Decrypt", "Encrypt", "Sign", "CreateGrant", "PutKeyPolicy", "DisableKey", "ListGrants"):
        assert not account.may(run, f"kms:{action}", seal)


def test_what_runs_and_services_decrypt_with_the_other_keys_they_decrypt_through_a_service(account: Account) -> None:
    for role in account.roles:
        for statement in account.identity(role):
            actions = statement.get("Action", [])
            if statement["Effect"] == "Allow" and "kms:Decrypt" in ([actions] if isinstance(actions, str) else actions):
                if role.name.startswith("RolesCustodian") and "Bool" in statement["Condition"]:
                    continue
                assert "kms:ViaService" in statement["Condition"]["StringEquals"], role.name


def test_no_role_has_a_statement_on_everything_that_changes_or_reads_data(account: Account) -> None:
    # None of these knows resources, or before it has run; all but the last two look only.
    harmless = {
        "ec2:DescribeNetworkInterfaces", "ecs:DescribeTaskDefinition", "ecr:GetAuthorizationToken",
        "cloudtrail:LookupEvents", "kms:ListAliases", "kms:CreateKey", "kms:CreateAlias", "kms:UpdateAlias",
        "ecs:DescribeTasks", "ecs:StopTask",
    }  # fmt: skip
    for role in account.roles:
        for statement in account.identity(role):
            actions = statement.get("Action", "NotAction")
            listed = {actions} if isinstance(actions, str) else set(actions)
            if statement["Effect"] == "Deny":
                continue
            assert not any("*" in action for action in listed), (role.name, listed)
            if statement["Resource"] == "*":
                assert listed <= harmless, (role.name, listed)
                if "ecs:StopTask" in listed:
                    assert statement["Condition"]["ArnEquals"]["ecs:cluster"]


def test_the_redrive_alone_takes_dead_letters_and_puts_them_back(account: Account) -> None:
    dead, logins = account.one("AWS::SQS::Queue", "QueueDeadLetters"), account.one("AWS::SQS::Queue", "QueueLogins")
    assert account.who_may("sqs:ReceiveMessage", dead) == account.who_may("sqs:DeleteMessage", dead) == {"RolesRedrive"}
    assert account.who_may("sqs:SendMessage", logins) == {"RolesRedrive", "RolesCustodian"}
    task = account.one("AWS::ECS::TaskDefinition", "SetupRedrive").properties
    assert task["TaskRoleArn"] == account.arn(account.one("AWS::IAM::Role", "RolesRedrive"))
    (container,) = task["ContainerDefinitions"]
    # What moves something is said by whoever runs it.
    assert container["Command"] == ["loginpipe", "dlq", "redrive", "--dry-run"]


def test_custody_and_replays_are_for_a_person_who_reaches_database_queue_and_keys(account: Account) -> None:
    custodian = account.one("AWS::IAM::Role", "RolesCustodian")
    assert account.may(custodian, "kms:Decrypt", account.one(*SEAL))
    assert account.may(custodian, "sqs:SendMessage", account.one("AWS::SQS::Queue", "QueueLogins"))
    # A replayed message is encrypted like any other.
    assert account.may(custodian, "kms:GenerateDataKey", account.one("AWS::KMS::Key", "KeysQueue"))
    assert "ecs-tasks" not in str(custodian.properties["AssumeRolePolicyDocument"])
    group = account.one("AWS::EC2::SecurityGroup", "NetworkDatabase")
    assert [rule["CidrIp"] for rule in group.properties["SecurityGroupIngress"]] == ["10.8.0.0/16"]


def test_the_salt_of_an_older_masking_is_read_by_runs_alone(account: Account) -> None:
    salt = json.loads(EXAMPLE.read_text())["compat_salt"]
    readers = {role.name[:-8] for role in account.roles for s in account.identity(role) if salt in str(s["Resource"])}
    assert readers == {"RolesRun"}


def test_each_role_that_starts_a_task_reads_and_decrypts_that_tasks_passwords_and_no_others(account: Account) -> None:
    key = account.one("AWS::KMS::Key", "KeysData")
    for task in account.of("AWS::ECS::TaskDefinition"):
        (container,) = task.properties["ContainerDefinitions"]
        (role,) = [role for role in account.roles if account.arn(role) == task.properties["ExecutionRoleArn"]]
        wanted = {secret["ValueFrom"].split(":password::")[0] for secret in container["Secrets"]}
        readable = {
            resource
            for statement in account.identity(role)
            if "secretsmanager:GetSecretValue" in statement["Action"]
            for resource in (
                [statement["Resource"]] if isinstance(statement["Resource"], str) else statement["Resource"]
            )
        }
        assert readable == wanted
        assert account.may(role, "kms:Decrypt", key)


def test_a_password_is_read_by_those_who_start_what_signs_in_with_it(account: Account) -> None:
    key = account.one("AWS::KMS::Key", "KeysData")
    tasks = {
        "Administrator": {"SetupPrepare"},
        "Owner": {"SetupPrepare", "SetupMigrate"},
        "Pipeline": {
            "SetupPrepare", "SetupCheck", "SetupRedrive", "ServicesRun", "ServicesCodeServer", "ServicesMetrics",
            "SetupQueuePartnersRedrive", "ServicesQueuePartnersRun", "ServicesQueuePartnersCodeServer",
            "ServicesQueuePartnersMetrics",
        },
        "Dagster": {
            "SetupPrepare", "SetupMigrate", "SetupCheck", "ServicesRun", "ServicesCodeServer", "ServicesDaemon",
            "ServicesWebserver", "ServicesQueuePartnersRun", "ServicesQueuePartnersCodeServer",
        },
    }  # fmt: skip
    assert len(account.of("AWS::SecretsManager::Secret")) == len(tasks)
    for part, readers in tasks.items():
        secret = account.one("AWS::SecretsManager::Secret", f"Database{part}Login")
        assert secret.properties["KmsKeyId"] == account.arn(key)
        for action in ("secretsmanager:GetSecretValue", "secretsmanager:BatchGetSecretValue"):
            assert account.who_may(action, secret) <= {f"{task}ExecutionRole" for task in readers}
        assert account.who_may("secretsmanager:GetSecretValue", secret) == {f"{task}ExecutionRole" for task in readers}
        assert account.who_may("secretsmanager:PutSecretValue", secret) == set()
    # Nor does a secret's own policy let anybody in.
    assert not [each for each in account.resources if each.type == "AWS::SecretsManager::ResourcePolicy"]


def test_the_role_of_the_daemon_starts_the_tasks_of_runs_alone_with_their_roles(account: Account) -> None:
    runs = [account.one("AWS::ECS::TaskDefinition", f"Services{queue}Run") for queue in ("", "QueuePartners")]
    daemon = account.one("AWS::IAM::Role", "RolesDaemon")
    (starts,) = [s for s in account.identity(daemon) if "ecs:RunTask" in s["Action"]]
    assert set(starts["Resource"]) == {account.arn(run) for run in runs}
    (hands_on,) = [s for s in account.identity(daemon) if "iam:PassRole" in s["Action"]]
    roles = {run.properties[role] for run in runs for role in ("TaskRoleArn", "ExecutionRoleArn")}
    assert set(hands_on["Resource"]) == roles
    assert not any("RegisterTaskDefinition" in str(account.identity(role)) for role in account.roles)


ALLOW: dict[str, Any] = {"Effect": "Allow"}
KEY_POLICY = [{**ALLOW, "Principal": {"AWS": "arn:aws:iam::111122223333:root"}, "Action": "kms:*", "Resource": "*"}]


@pytest.mark.parametrize(
    ("identity", "key_policy", "expected"),
    [
        ([], KEY_POLICY, False),
        ([{**ALLOW, "Action": "kms:De*", "Resource": "*"}], KEY_POLICY, True),
        ([{**ALLOW, "Action": "kms:Decrypt", "Resource": "*"}], [], False),
        ([], [{**ALLOW, "Principal": {"AWS": "arn:me"}, "NotAction": "kms:Encrypt", "Resource": "*"}], True),
        ([], [{**ALLOW, "Principal": "*", "Action": "*", "Resource": "*"}], True),
        (
            [
                {**ALLOW, "Action": "*", "Resource": "*"},
                {"Effect": "Deny", "NotAction": "kms:Get*", "Resource": "arn:key"},
            ],
            KEY_POLICY,
            False,
        ),
        (
            [{**ALLOW, "Action": "*", "Resource": "*"}],
            [
                *KEY_POLICY,
                {
                    "Effect": "Deny", "Principal": {"AWS": "*"}, "Action": "kms:Decrypt", "Resource": "*",
                    "Condition": {"StringNotEquals": {"aws:PrincipalArn": ["arn:other"]}},
                },
            ],
            False,
        ),
    ],
    ids=["root alone", "by pattern", "no delegation", "by the key", "anybody", "own deny", "all but another"],
)  # fmt: skip
def test_the_evaluation_itself_decides_as_kms_does(
    identity: list[dict[str, Any]], key_policy: list[dict[str, Any]], expected: bool
) -> None:
    assert allowed(identity, "arn:me", "kms:Decrypt", "arn:key", key_policy) is expected
