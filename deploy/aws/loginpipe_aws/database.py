"""Create Postgres on RDS, for the warehouse and Dagster's storage, and the secrets of its logins."""

from typing import Final

import aws_cdk as cdk
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_rds as rds
from aws_cdk import aws_secretsmanager as sm
from constructs import Construct

from loginpipe_aws.context import Foundation
from loginpipe_aws.naming import KEPT, named
from loginpipe_aws.network import DATABASE

ADMINISTRATOR: Final = "loginpipe_admin"
LOGINS: Final = {"owner": "loginpipe", "pipeline": "loginpipe_pipeline", "dagster": "dagster"}
"""Part → its login. prepare_database.py creates the logins, with the passwords from their secrets."""

_BACKUP_DAYS: Final = 14
_CHECKPOINT_SECONDS: Final = 900
# Twice the write-ahead log between two checkpoints at 10,000 messages a second, because Postgres starts a checkpoint at
# half the limit.
_MOST_WAL_MIB: Final = 98_304
_WAL_OF_STORAGE: Final = 0.1
_LEAST_IOPS: Final = 12_000
_IOPS_PER_MIB: Final = 4
"""An operation of gp3 transfers at most a quarter of a MiB."""


class Database(Construct):
    """Multi-AZ, encrypted, TLS only, point-in-time recovery for 14 days, protected from deletion."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: Foundation,
        vpc: ec2.IVpc,
        group: ec2.ISecurityGroup,
        key: kms.Key,
        log_groups: list[logs.LogGroup],
    ) -> None:
        super().__init__(scope, construct_id)
        engine = rds.DatabaseInstanceEngine.postgres(version=rds.PostgresEngineVersion.VER_17_9)
        parameters = rds.ParameterGroup(
            self,
            "Parameters",
            engine=engine,
            description="loginpipe",
            parameters={
                "rds.force_ssl": "1",
                "ssl_min_protocol_version": "TLSv1.2",
                "password_encryption": "scram-sha-256",
                "max_connections": str(settings.database_connections),
                # Fewer checkpoints, and compressed full-page images: docs/scaling.md has the calculation.
                "checkpoint_timeout": str(_CHECKPOINT_SECONDS),
                "max_wal_size": str(_max_wal_mib(settings.database_storage_gib)),
                "wal_compression": "lz4",
                "log_connections": "1",
                "log_disconnections": "1",
                "log_lock_waits": "1",
                # A statement can contain a user id, and the details of an error quote the row. Neither may be logged.
                "log_statement": "none",
                "log_min_duration_statement": "-1",
                "log_min_error_statement": "panic",
                "log_error_verbosity": "terse",
            },
        )
        # A secret of our own, because RDS creates neither a read replica nor a blue/green deployment of an instance
        # whose secret it manages.
        self.administrator = _login(self, "administrator", ADMINISTRATOR, key)
        self.secrets = {part: _login(self, part, login, key) for part, login in LOGINS.items()}
        throughput = settings.database_storage_throughput
        iops = max(_LEAST_IOPS, _IOPS_PER_MIB * throughput) if throughput else None
        instance_type = ec2.InstanceType(settings.database_class)
        monitoring = iam.Role(
            self,
            "Monitoring",
            assumed_by=iam.ServicePrincipal("monitoring.rds.amazonaws.com"),
            managed_policies=[
                iam.ManagedPolicy.from_aws_managed_policy_name("service-role/AmazonRDSEnhancedMonitoringRole")
            ],
        )
        self.instance = rds.DatabaseInstance(
            self,
            "Instance",
            instance_identifier=named(self, "{}"),
            engine=engine,
            instance_type=instance_type,
            # A reference: CloudFormation reads the secret, and the template does not contain it.
            credentials=rds.Credentials.from_password(
                ADMINISTRATOR, self.administrator.secret_value_from_json("password")
            ),
            vpc=vpc,
            vpc_subnets=DATABASE,
            security_groups=[group],
            publicly_accessible=False,
            multi_az=True,
            storage_type=rds.StorageType.GP3,
            allocated_storage=settings.database_storage_gib,
            max_allocated_storage=settings.database_storage_most_gib,
            storage_throughput=throughput,
            iops=iops,
            storage_encrypted=True,
            storage_encryption_key=key,
            # Allows logins of people without passwords: GRANT rds_iam TO custodian_1.
            iam_authentication=True,
            parameter_group=parameters,
            ca_certificate=rds.CaCertificate.RDS_CA_RSA2048_G1,
            backup_retention=cdk.Duration.days(_BACKUP_DAYS),
            copy_tags_to_snapshot=True,
            delete_automated_backups=False,
            deletion_protection=True,
            removal_policy=KEPT,
            auto_minor_version_upgrade=True,
            enable_performance_insights=True,
            performance_insight_encryption_key=key,
            monitoring_interval=cdk.Duration.seconds(60),
            monitoring_role=monitoring,
            cloudwatch_logs_exports=["postgresql", "upgrade"],
        )
        # Otherwise RDS would create the groups, without the key and the retention.
        self.instance.node.add_dependency(*log_groups)
        self.replica = None
        if settings.read_replica:
            self.replica = rds.DatabaseInstanceReadReplica(
                self,
                "Replica",
                source_database_instance=self.instance,
                instance_identifier=named(self, "{}-replica"),
                instance_type=instance_type,
                vpc=vpc,
                vpc_subnets=DATABASE,
                security_groups=[group],
                publicly_accessible=False,
                # The same performance as the source, so that the replica keeps up. The defaults would be smaller.
                storage_type=rds.StorageType.GP3,
                storage_throughput=throughput,
                iops=iops,
                max_allocated_storage=settings.database_storage_most_gib,
                # Encrypted with the key of its source. Within one region, RDS does not accept a key here.
                iam_authentication=True,
                parameter_group=parameters,
                ca_certificate=rds.CaCertificate.RDS_CA_RSA2048_G1,
                deletion_protection=True,
                removal_policy=KEPT,
                auto_minor_version_upgrade=True,
                enable_performance_insights=True,
                performance_insight_encryption_key=key,
                monitoring_interval=cdk.Duration.seconds(60),
                monitoring_role=monitoring,
            )


def _max_wal_mib(storage_gib: int) -> int:
    """Return the maximum size of the write-ahead log between checkpoints: a tenth of the storage, up to a limit."""
    return min(_MOST_WAL_MIB, int(storage_gib * 1024 * _WAL_OF_STORAGE))


def _login(scope: Construct, part: str, login: str, key: kms.IKey) -> sm.Secret:
    """Return the secret of a login, with a generated password."""
    return sm.Secret(
        scope,
        f"{part.title()}Login",
        secret_name=named(scope, f"{{}}/database/{part}"),
        description=f"loginpipe: the database login {login}",
        encryption_key=key,
        generate_secret_string=sm.SecretStringGenerator(
            secret_string_template=f'{{"username": "{login}"}}',
            generate_string_key="password",
            password_length=40,
            exclude_punctuation=True,
        ),
        removal_policy=KEPT,
    )
