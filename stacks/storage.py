"""Where data, base model, checkpoints and adapters lie, and the key that encrypts them."""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from constructs import Construct

from heartbeat import layout
from stacks.settings import Settings

_ABORT_UPLOAD_DAYS = 7
_TLS_VERSION = 1.2


class Storage(cdk.Stack):
    """`key`, `data_bucket` (datasets) and `artifact_bucket` (base models, runs), with their access logs."""

    def __init__(self, scope: Construct, construct_id: str, *, settings: Settings) -> None:
        super().__init__(scope, construct_id, description="HeartBeat Engine: datasets, models and runs")
        self._settings = settings
        self.key = kms.Key(
            self,
            "Key",
            description=f"HeartBeat {settings.environment}: datasets, models and runs",
            enable_key_rotation=True,
            removal_policy=settings.removal_policy,
        )
        self.access_logs_bucket = self._access_logs_bucket()
        self.data_bucket = self._bucket("Data")
        expire_checkpoints = s3.LifecycleRule(
            id="ExpireCheckpoints",
            prefix=layout.CHECKPOINTS,
            expiration=cdk.Duration.days(settings.checkpoint_days),
        )
        self.artifact_bucket = self._bucket("Artifacts", expire_checkpoints)

    def _bucket(self, name: str, *rules: s3.LifecycleRule) -> s3.Bucket:
        """A private, versioned bucket under the customer key."""
        return s3.Bucket(
            self,
            name,
            encryption=s3.BucketEncryption.KMS,
            encryption_key=self.key,
            bucket_key_enabled=True,  # one KMS call for many objects: a checkpoint has hundreds
            versioned=True,
            server_access_logs_bucket=self.access_logs_bucket,
            server_access_logs_prefix=f"{name.lower()}/",
            lifecycle_rules=[
                *rules,
                _abort_uploads(),
                s3.LifecycleRule(
                    id="ExpireOldVersions",
                    noncurrent_version_expiration=cdk.Duration.days(self._settings.noncurrent_version_days),
                    expired_object_delete_marker=True,
                ),
            ],
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            enforce_ssl=True,
            minimum_tls_version=_TLS_VERSION,
            removal_policy=self._settings.removal_policy,
            auto_delete_objects=not self._settings.retain_data,
        )

    def _access_logs_bucket(self) -> s3.Bucket:
        return s3.Bucket(
            self,
            "AccessLogs",
            # S3's log delivery cannot write to a bucket whose default encryption is a KMS key.
            encryption=s3.BucketEncryption.S3_MANAGED,
            lifecycle_rules=[
                _abort_uploads(),
                s3.LifecycleRule(id="ExpireLogs", expiration=cdk.Duration.days(self._settings.access_log_days)),
            ],
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            enforce_ssl=True,
            minimum_tls_version=_TLS_VERSION,
            removal_policy=self._settings.removal_policy,
            auto_delete_objects=not self._settings.retain_data,
        )


def _abort_uploads() -> s3.LifecycleRule:
    return s3.LifecycleRule(
        id="AbortUploads", abort_incomplete_multipart_upload_after=cdk.Duration.days(_ABORT_UPLOAD_DAYS)
    )
