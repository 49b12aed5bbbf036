"""Create the buckets for the archive, for task output and for access logs, and the image repository."""

from collections.abc import Sequence
from typing import Final

import aws_cdk as cdk
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from constructs import Construct

from loginpipe_aws.naming import KEPT, named

ARCHIVE_PREFIX: Final = "archive"

_IMAGES_KEPT: Final = 30


class Storage(Construct):
    """Private buckets and a private repository. Their contents outlive the stack."""

    def __init__(self, scope: Construct, construct_id: str, *, key: kms.Key, image_reader_arns: Sequence[str]) -> None:
        super().__init__(scope, construct_id)
        self.access_logs = _bucket(
            self,
            "AccessLogs",
            expire_days=365,
            # Load balancers and S3 write their logs only with S3-managed keys, and the owner of the bucket owns the
            # objects.
            ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
        )
        # loginpipe requests encryption with S3-managed keys (AES256) for each file, so a KMS key here would not be
        # used.
        self.archive = _bucket(self, "Archive", access_logs=self.access_logs, versioned=True)
        self.archive.add_lifecycle_rule(
            id="older-days-cost-less",
            prefix=f"{ARCHIVE_PREFIX}/",
            transitions=[
                s3.Transition(storage_class=s3.StorageClass.INFREQUENT_ACCESS, transition_after=cdk.Duration.days(60)),
                # The Glacier class with immediate access, because `archive verify` and `restore` read files every day.
                s3.Transition(
                    storage_class=s3.StorageClass.GLACIER_INSTANT_RETRIEVAL, transition_after=cdk.Duration.days(180)
                ),
            ],
            # Overwritten or deleted files can be restored for this time. After it, an erasure is complete.
            noncurrent_version_expiration=cdk.Duration.days(30),
            expired_object_delete_marker=True,
        )
        self.compute_logs = _bucket(self, "ComputeLogs", access_logs=self.access_logs, expire_days=30)
        self.images = ecr.Repository(
            self,
            "Images",
            repository_name=named(self, "{}"),
            image_scan_on_push=True,
            image_tag_mutability=ecr.TagMutability.IMMUTABLE,
            encryption=ecr.RepositoryEncryption.KMS,
            encryption_key=key,
            removal_policy=KEPT,
            lifecycle_rules=[ecr.LifecycleRule(max_image_count=_IMAGES_KEPT)],
        )
        if image_reader_arns:
            self.images.add_to_resource_policy(
                iam.PolicyStatement(
                    sid="CopyReleases",
                    principals=[iam.ArnPrincipal(arn) for arn in image_reader_arns],
                    actions=["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer", "ecr:BatchCheckLayerAvailability"],
                )
            )


def _bucket(
    scope: Construct,
    name: str,
    *,
    access_logs: s3.IBucket | None = None,
    versioned: bool = False,
    expire_days: int | None = None,
    ownership: s3.ObjectOwnership = s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
) -> s3.Bucket:
    bucket = s3.Bucket(
        scope,
        name,
        encryption=s3.BucketEncryption.S3_MANAGED,
        block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
        enforce_ssl=True,
        minimum_tls_version=1.2,
        object_ownership=ownership,
        versioned=versioned,
        server_access_logs_bucket=access_logs,
        server_access_logs_prefix=f"s3/{name.lower()}/" if access_logs else None,
        removal_policy=KEPT,
    )
    bucket.add_lifecycle_rule(id="leave-no-halves", abort_incomplete_multipart_upload_after=cdk.Duration.days(2))
    if expire_days:
        bucket.add_lifecycle_rule(id="forget", expiration=cdk.Duration.days(expire_days))
    return bucket
