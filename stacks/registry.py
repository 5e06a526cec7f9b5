"""Where the training image lies, and how AWS builds it."""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_codebuild as codebuild
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3_assets as s3_assets
from constructs import Construct

from stacks import bundling, permissions
from stacks.nag import acknowledge
from stacks.settings import Settings

_NUM_IMAGES_KEPT = 10
_DOCKERFILE = "training_code/Dockerfile"

_BUILD_COMMANDS = [
    'aws ecr get-login-password | docker login --username AWS --password-stdin "${REPOSITORY_URI%%/*}"',
    # SageMaker pulls one image manifest; with provenance, buildx would push an index of two.
    "docker buildx build --load --platform linux/amd64 --provenance=false"
    ' --file "$DOCKERFILE" --tag "$REPOSITORY_URI:$IMAGE_TAG" .',
    # Tags are immutable: where another build has pushed the same content meanwhile, all is done.
    'docker push "$REPOSITORY_URI:$IMAGE_TAG"'
    ' || aws ecr describe-images --repository-name "${REPOSITORY_URI#*/}" --image-ids imageTag="$IMAGE_TAG"',
]

_PUSH_ACTIONS = [
    "ecr:BatchCheckLayerAvailability",
    "ecr:CompleteLayerUpload",
    "ecr:DescribeImages",
    "ecr:InitiateLayerUpload",
    "ecr:PutImage",
    "ecr:UploadLayerPart",
]


class Registry(cdk.Stack):
    """`repository`, `image_tag` (hash of the image's source), `build_project`, `build_log_group`.

    A deploy builds nothing; the first execution that finds no image under `image_tag` starts the project.
    """

    def __init__(self, scope: Construct, construct_id: str, *, settings: Settings, key: kms.IKey) -> None:
        super().__init__(scope, construct_id, description="HeartBeat Engine: the training image")
        self.repository = ecr.Repository(
            self,
            "TrainingImages",
            image_scan_on_push=True,
            image_tag_mutability=ecr.TagMutability.IMMUTABLE,  # a tag is its content's hash
            # The image holds public code only; a customer key would add a KMS call to every pull for nothing.
            encryption=ecr.RepositoryEncryption.AES_256,
            lifecycle_rules=[
                ecr.LifecycleRule(
                    description=f"Keep the last {_NUM_IMAGES_KEPT} images", max_image_count=_NUM_IMAGES_KEPT
                )
            ],
            removal_policy=settings.removal_policy,
            empty_on_delete=not settings.retain_data,
        )
        self._source = s3_assets.Asset(self, "TrainingImageSource", path=str(bundling.stage_training_image()))
        self.image_tag = self._source.asset_hash
        self.build_log_group = logs.LogGroup(
            self, "BuildLog", retention=settings.log_retention, removal_policy=settings.removal_policy
        )
        self.build_project = self._project(key)

    def _project(self, key: kms.IKey) -> codebuild.Project:
        project = codebuild.Project(
            self,
            "TrainingImageBuild",
            description="Builds the training image and pushes it under its content hash",
            source=codebuild.Source.s3(bucket=self._source.bucket, path=self._source.s3_object_key),
            role=self._build_role().without_policy_updates(),  # CDK's grants are wider than the build needs
            build_spec=codebuild.BuildSpec.from_object(
                {"version": "0.2", "phases": {"build": {"commands": _BUILD_COMMANDS}}}
            ),
            environment=codebuild.BuildEnvironment(
                build_image=codebuild.LinuxBuildImage.AMAZON_LINUX_2023_5,
                compute_type=codebuild.ComputeType.MEDIUM,  # 128 GB of disk: CUDA and torch fill 64
                privileged=True,
            ),
            environment_variables={
                name: codebuild.BuildEnvironmentVariable(value=value)
                for name, value in {
                    "REPOSITORY_URI": self.repository.repository_uri,
                    "IMAGE_TAG": self.image_tag,
                    "DOCKERFILE": _DOCKERFILE,
                }.items()
            },
            encryption_key=key,
            logging=codebuild.LoggingOptions(
                cloud_watch=codebuild.CloudWatchLoggingOptions(log_group=self.build_log_group)
            ),
            timeout=cdk.Duration.hours(1),
            queued_timeout=cdk.Duration.minutes(30),
        )
        acknowledge(
            project,
            {"AwsSolutions-CB3": "docker build needs a privileged container; it builds our own source."},
        )
        return project

    def _build_role(self) -> iam.Role:
        """Reads its source, pushes to its repository, writes its log: nothing else."""
        role = iam.Role(self, "BuildRole", assumed_by=permissions.service("codebuild.amazonaws.com"))
        source = self._source.bucket.arn_for_objects(self._source.s3_object_key)
        statements = [
            (["s3:GetObject", "s3:GetObjectVersion"], source),
            (_PUSH_ACTIONS, self.repository.repository_arn),
            (["logs:CreateLogStream", "logs:PutLogEvents"], self.build_log_group.log_group_arn),
            (["ecr:GetAuthorizationToken"], "*"),  # an account-wide call: IAM knows no resource for it
        ]
        for actions, resource in statements:
            role.add_to_policy(iam.PolicyStatement(actions=actions, resources=[resource]))
        acknowledge(
            role,
            {"AwsSolutions-IAM5[Resource::*]": "ecr:GetAuthorizationToken has no resource to be limited to."},
        )
        return role
