"""Queues, database, buckets, topic, log groups: encrypted, private, kept."""

import json
from typing import Any

import pytest
from aws_cdk.assertions import Match, Template

from iam import ACCOUNT, Account, allowed, short

ENCRYPTED = {
    "AWS::SQS::Queue": "KmsMasterKeyId",
    "AWS::SNS::Topic": "KmsMasterKeyId",
    "AWS::Logs::LogGroup": "KmsKeyId",
    "AWS::SecretsManager::Secret": "KmsKeyId",
    "AWS::S3::Bucket": "BucketEncryption",
    "AWS::ECR::Repository": "EncryptionConfiguration",
}
KEPT = (
    "AWS::ECR::Repository", "AWS::KMS::Key", "AWS::Logs::LogGroup", "AWS::RDS::DBInstance", "AWS::S3::Bucket",
    "AWS::SecretsManager::Secret", "AWS::SQS::Queue",
)  # fmt: skip


@pytest.mark.parametrize("kind", ENCRYPTED)
def test_whatever_holds_data_is_encrypted(account: Account, kind: str) -> None:
    for resource in account.of(kind):
        assert resource.properties.get(ENCRYPTED[kind]), resource.name


@pytest.mark.parametrize("kind", KEPT)
def test_whatever_holds_data_outlives_its_stack_and_its_replacement(account: Account, kind: str) -> None:
    for resource in account.of(kind):
        # But for what a first deployment made that fails: its name would stand in the way of the next.
        assert resource.attributes["DeletionPolicy"] == "RetainExceptOnCreate", resource.name
        assert resource.attributes["UpdateReplacePolicy"] == "Retain", resource.name
        assert resource.stack == "LoginpipeData"


def test_the_database_is_private_encrypted_in_two_zones_and_cannot_be_deleted(data: Template) -> None:
    data.has_resource_properties(
        "AWS::RDS::DBInstance",
        {
            "DBInstanceIdentifier": "loginpipe",
            "PubliclyAccessible": False,
            "StorageEncrypted": True,
            "KmsKeyId": Match.any_value(),
            "MultiAZ": True,
            "DeletionProtection": True,
            "BackupRetentionPeriod": 14,
            "DeleteAutomatedBackups": False,
            "CopyTagsToSnapshot": True,
            "EnablePerformanceInsights": True,
            "EnableCloudwatchLogsExports": ["postgresql", "upgrade"],
        },
    )
    data.all_resources_properties("AWS::RDS::DBInstance", {"PubliclyAccessible": False, "DeletionProtection": True})


def test_a_database_that_has_a_replica_has_no_password_that_rds_manages(account: Account) -> None:
    # RDS makes no read replica, and no blue/green deployment, of an instance that has one.
    replica = account.one("AWS::RDS::DBInstance", "DatabaseReplica")
    assert "DatabaseInstance" in replica.properties["SourceDBInstanceIdentifier"]
    for instance in account.of("AWS::RDS::DBInstance"):
        assert not {"ManageMasterUserPassword", "MasterUserSecret"} & set(instance.properties), instance.name


def test_the_administrators_password_is_read_from_our_secret_when_the_instance_is_made(account: Account) -> None:
    database = account.one("AWS::RDS::DBInstance", "DatabaseInstance").properties
    secret = account.arn(account.one("AWS::SecretsManager::Secret", "DatabaseAdministratorLogin"))
    assert database["MasterUserPassword"] == f"{{{{resolve:secretsmanager:{secret}:SecretString:password::}}}}"
    assert database["MasterUsername"] == "loginpipe_admin"
    # A replica has the logins of its source.
    assert not {name for name in replica_properties(account) if name.startswith("MasterUser")}


def test_the_storage_of_both_instances_has_the_throughput_that_was_asked_for(account: Account) -> None:
    for properties in (account.one("AWS::RDS::DBInstance", "DatabaseInstance").properties, replica_properties(account)):
        asked = {name: properties[name] for name in ("StorageType", "StorageThroughput", "Iops", "MaxAllocatedStorage")}
        assert asked == {"StorageType": "gp3", "StorageThroughput": 3500, "Iops": 14_000, "MaxAllocatedStorage": 1000}


def test_the_database_speaks_tls_or_not_at_all_and_logs_no_statement(data: Template) -> None:
    data.has_resource_properties(
        "AWS::RDS::DBParameterGroup",
        {
            "Parameters": Match.object_like(
                {"rds.force_ssl": "1", "log_statement": "none", "log_min_error_statement": "panic"}
            )
        },
    )
    data.all_resources_properties("AWS::RDS::DBInstance", {"DBParameterGroupName": Match.any_value()})


def test_the_database_is_made_last_so_that_what_fails_before_it_can_be_deleted(account: Account) -> None:
    instance = account.one("AWS::RDS::DBInstance", "DatabaseInstance")
    others = {
        resource.name
        for resource in account.resources
        if resource.stack == "LoginpipeData" and resource.name.startswith(("Queue", "Storage", "PersonalData"))
    }
    assert len(others) > 10
    assert others <= set(instance.attributes["DependsOn"])
    protected = [r.name for r in account.of("AWS::RDS::DBInstance") if r.properties["DeletionProtection"]]
    assert len(protected) == 2


def test_checkpoints_are_fewer_than_by_default_and_their_pages_compressed(account: Account) -> None:
    (group,) = account.of("AWS::RDS::DBParameterGroup")
    parameters = group.properties["Parameters"]
    assert (parameters["checkpoint_timeout"], parameters["wal_compression"]) == ("900", "lz4")
    # MiB: a tenth of 400 GiB.
    assert parameters["max_wal_size"] == "40960"


def test_the_logs_of_the_database_go_to_groups_that_are_there_before_it(account: Account) -> None:
    database = account.one("AWS::RDS::DBInstance", "DatabaseInstance")
    groups = {g.properties["LogGroupName"]: g.name for g in account.of("AWS::Logs::LogGroup")}
    for kind in database.properties["EnableCloudwatchLogsExports"]:
        assert groups[f"/aws/rds/instance/loginpipe/{kind}"] in database.attributes["DependsOn"]


def test_no_bucket_is_public_or_answers_without_tls(account: Account) -> None:
    policies = {policy.properties["Bucket"]: policy for policy in account.of("AWS::S3::BucketPolicy")}
    for bucket in account.of("AWS::S3::Bucket"):
        assert set(bucket.properties["PublicAccessBlockConfiguration"].values()) == {True}
        statements = policies[bucket.name].properties["PolicyDocument"]["Statement"]
        assert refuses_without_tls(statements, "s3:*")
        assert not any(s["Effect"] == "Allow" and s["Principal"] in ("*", {"AWS": "*"}) for s in statements)


def test_the_archive_keeps_versions_and_moves_to_cheaper_storage(data: Template) -> None:
    data.has_resource_properties(
        "AWS::S3::Bucket",
        {
            "VersioningConfiguration": {"Status": "Enabled"},
            "LifecycleConfiguration": {
                "Rules": Match.array_with(
                    [
                        Match.object_like(
                            {
                                "Prefix": "archive/",
                                "Transitions": [
                                    {"StorageClass": "STANDARD_IA", "TransitionInDays": 60},
                                    {"StorageClass": "GLACIER_IR", "TransitionInDays": 180},
                                ],
                                "NoncurrentVersionExpiration": {"NoncurrentDays": 30},
                                "ExpirationInDays": Match.absent(),
                            }
                        )
                    ]
                )
            },
        },
    )


def test_a_message_received_five_times_goes_to_the_dead_letter_queue_which_keeps_it_longer(account: Account) -> None:
    logins, dead = account.one("AWS::SQS::Queue", "QueueLogins"), account.one("AWS::SQS::Queue", "QueueDeadLetters")
    redrive = logins.properties["RedrivePolicy"]
    assert redrive == {"deadLetterTargetArn": account.arn(dead), "maxReceiveCount": 5}
    assert dead.properties["MessageRetentionPeriod"] == 1_209_600 > logins.properties["MessageRetentionPeriod"]
    assert dead.properties["RedriveAllowPolicy"]["sourceQueueArns"][0].endswith(":loginpipe-login-queue")


def test_queues_and_topic_answer_over_tls_alone(account: Account) -> None:
    for policy in (*account.of("AWS::SQS::QueuePolicy"), *account.of("AWS::SNS::TopicPolicy")):
        actions = "sqs:*" if "SQS" in policy.type else "sns:Publish"
        assert refuses_without_tls(policy.properties["PolicyDocument"]["Statement"], actions)


def test_the_named_senders_alone_may_send_from_outside(account: Account) -> None:
    policy = account.one("AWS::SQS::QueuePolicy", "QueueLogins").properties["PolicyDocument"]["Statement"]
    (lets,) = [statement for statement in policy if statement["Effect"] == "Allow"]
    assert lets["Principal"] == {"AWS": "arn:aws:iam::111122223333:role/app-backend"}
    assert lets["Action"] == ["sqs:GetQueueUrl", "sqs:SendMessage"]


def test_the_named_roles_of_other_environments_may_copy_images_and_no_more(account: Account) -> None:
    (repository,) = account.of("AWS::ECR::Repository")
    (lets,) = repository.properties["RepositoryPolicyText"]["Statement"]
    assert lets["Principal"] == {"AWS": "arn:aws:iam::444455556666:role/loginpipe-deploy"}
    assert lets["Action"] == ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]


def test_images_are_scanned_and_a_tag_is_never_moved(data: Template) -> None:
    data.has_resource_properties(
        "AWS::ECR::Repository",
        {"ImageScanningConfiguration": {"ScanOnPush": True}, "ImageTagMutability": "IMMUTABLE"},
    )


def test_lines_are_kept_for_a_year_and_no_longer(data: Template) -> None:
    data.all_resources_properties("AWS::Logs::LogGroup", {"RetentionInDays": 365})


def test_the_stack_of_the_data_is_protected_from_deletion(synthesised: Any) -> None:
    manifest = json.loads((synthesised / "manifest.json").read_text())
    assert manifest["artifacts"]["LoginpipeData"]["properties"]["terminationProtection"] is True


def replica_properties(account: Account) -> dict[str, Any]:
    return account.one("AWS::RDS::DBInstance", "DatabaseReplica").properties


def refuses_without_tls(statements: list[dict[str, Any]], actions: str) -> bool:
    return any(
        s["Effect"] == "Deny"
        and s["Action"] == actions
        and s["Principal"] in ("*", {"AWS": "*"})
        and s["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
        for s in statements
    )


def test_a_token_connects_each_task_as_the_logins_that_it_uses_and_none_as_the_owner(account: Account) -> None:
    def connected_as(login: str) -> set[str]:
        instance = account.one("AWS::RDS::DBInstance", "DatabaseInstance").name
        user = f"arn:aws:rds-db:eu-central-1:{ACCOUNT}:dbuser:{instance}.DbiResourceId/{login}"
        return {
            short(role.name)
            for role in account.roles
            if allowed(account.identity(role), account.arn(role), "rds-db:connect", user, None)
        }

    assert connected_as("loginpipe_pipeline") == {
        "RolesRun", "RolesCodeServer", "RolesMetrics", "RolesRedrive",
    }  # fmt: skip
    assert connected_as("dagster") == {"RolesRun", "RolesCodeServer", "RolesDaemon", "RolesWebserver"}
    assert connected_as("loginpipe") == set()
    # All custodians share one role. With it, one could approve what another has to approve.
    assert connected_as("custodian_1") == set()
