"""One role for each principal, every action spelled out. A wildcard resource carries the reason why.

The handlers' roles are made with their functions in stacks/pipeline.py from the grants listed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aws_cdk import Aws
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from constructs import Construct

from heartbeat import layout, requests

SCALING_ROLE = "AWSServiceRoleForApplicationAutoScaling_SageMakerEndpoint"
_SCALING = "sagemaker.application-autoscaling.amazonaws.com"


def arn(service: str, resource: str) -> str:
    """ARN in this partition, Region and account."""
    return f"arn:{Aws.PARTITION}:{service}:{Aws.REGION}:{Aws.ACCOUNT_ID}:{resource}"


def allow(
    actions: Sequence[str], resources: Sequence[str], conditions: Mapping[str, object] | None = None
) -> iam.PolicyStatement:
    return iam.PolicyStatement(actions=list(actions), resources=list(resources), conditions=conditions)


def service(name: str) -> iam.ServicePrincipal:
    """A service, for this account only: another account must not be able to make it use our role."""
    return iam.ServicePrincipal(name, conditions={"StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID}})


@dataclass(frozen=True, kw_only=True)
class Buckets:
    """The two buckets and their key, as the roles see them."""

    data: s3.IBucket
    artifacts: s3.IBucket
    key: kms.IKey
    extra_datasets: Sequence[str] = ()
    extra_models: Sequence[str] = ()
    """Names of buckets that may hold base weights too"""

    def read_datasets(self) -> list[iam.PolicyStatement]:
        extra = [f"arn:{Aws.PARTITION}:s3:::{name}" for name in self.extra_datasets]
        return [
            allow(["s3:ListBucket"], [self.data.bucket_arn, *extra]),
            allow(
                ["s3:GetObject"],
                [self.data.arn_for_objects(layout.DATASETS + "*"), *(f"{bucket}/*" for bucket in extra)],
            ),
            self.decrypt(),
        ]

    def read_models(self, *prefixes: str) -> list[iam.PolicyStatement]:
        """Base weights, wherever they may lie, and objects of the artifact bucket under `prefixes`."""
        extra = [f"arn:{Aws.PARTITION}:s3:::{name}" for name in self.extra_models]
        elsewhere = [
            allow(["s3:ListBucket"], extra),
            allow(["s3:GetObject"], [f"{bucket}/*" for bucket in extra]),
        ]
        return [*self.read(layout.BASE_MODELS, *prefixes), *(elsewhere if extra else [])]

    def read(self, *prefixes: str) -> list[iam.PolicyStatement]:
        """Reads objects of the artifact bucket under these prefixes, and lists those only."""
        return [
            allow(
                ["s3:ListBucket"],
                [self.artifacts.bucket_arn],
                {"StringLike": {"s3:prefix": [f"{prefix}*" for prefix in prefixes]}},
            ),
            allow(["s3:GetObject"], [self.artifacts.arn_for_objects(f"{prefix}*") for prefix in prefixes]),
            self.decrypt(),
        ]

    def write_runs(self) -> list[iam.PolicyStatement]:
        return self.write(layout.RUNS)

    def write(self, *prefixes: str) -> list[iam.PolicyStatement]:
        """Writes under these prefixes. A large upload needs kms:Decrypt too: S3 reads back its parts' keys."""
        objects = [self.artifacts.arn_for_objects(f"{prefix}*") for prefix in prefixes]
        return [
            allow(["s3:PutObject", "s3:AbortMultipartUpload"], objects),
            allow(["kms:GenerateDataKey", "kms:Decrypt"], [self.key.key_arn]),
        ]

    def decrypt(self) -> iam.PolicyStatement:
        return allow(["kms:Decrypt"], [self.key.key_arn])


def training_role(scope: Construct, *, buckets: Buckets, repository: ecr.IRepository) -> iam.Role:
    """What SageMaker does for a training job: reads the inputs, writes the run's folder, logs, pulls the image."""
    return sagemaker_role(
        scope,
        "Training",
        *buckets.read_datasets(),
        *buckets.read_models(layout.CHECKPOINTS),
        *buckets.write(layout.RUNS, layout.CHECKPOINTS),
        *logs_and_metrics("TrainingJobs"),
        *pull(repository.repository_arn),
    )


def endpoint_role(
    scope: Construct,
    *,
    buckets: Buckets,
    image_repository_arn: str,
    alarm_arns: Sequence[str],
    hosts_components: bool,
) -> iam.Role:
    """What SageMaker does for an endpoint: reads base weights and adapters, logs, pulls the serving image."""
    return sagemaker_role(
        scope,
        "Endpoint",
        *buckets.read_models(layout.RUNS),
        *logs_and_metrics("Endpoints"),
        *([write_logs("InferenceComponents")] if hosts_components else []),
        *pull(image_repository_arn),
        # SageMaker's guide asks it of "your execution role", which is this one or the caller's: both have it.
        allow(["cloudwatch:DescribeAlarms"], alarm_arns),
    )


def sagemaker_role(scope: Construct, kind: str, *statements: iam.PolicyStatement) -> iam.Role:
    role = iam.Role(
        scope,
        f"{kind}Role",
        assumed_by=service("sagemaker.amazonaws.com"),
        description=f"SageMaker {kind.lower()} of HeartBeat Engine",
    )
    for statement in statements:
        role.add_to_policy(statement)
    return role


def write_logs(kind: str) -> iam.PolicyStatement:
    # SageMaker itself makes these log groups, in every account under the same names.
    group = arn("logs", f"log-group:/aws/sagemaker/{kind}*")
    return allow(
        ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"],
        [group, f"{group}:log-stream:*"],
    )


def logs_and_metrics(kind: str) -> list[iam.PolicyStatement]:
    return [
        write_logs(kind),
        allow(
            ["cloudwatch:PutMetricData"],
            ["*"],  # CloudWatch has no resource for it: limited by namespace
            {"StringLike": {"cloudwatch:namespace": ["/aws/sagemaker/*", "aws/sagemaker/*"]}},
        ),
    ]


def pull(repository_arn: str) -> list[iam.PolicyStatement]:
    return [
        allow(["ecr:GetAuthorizationToken"], ["*"]),  # the token is the account's: ECR has no resource for it
        allow(
            ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
            [repository_arn],
        ),
    ]


@dataclass(frozen=True, kw_only=True)
class Names:
    """ARN patterns of what a run creates: the app's own names only."""

    environment: str
    endpoint_name: str
    model_package_group: str
    scheduled: bool = False
    """Whether there is a state machine that switches the endpoint on and off."""
    scales_to_zero: bool = False
    """Whether endpoints host inference components."""

    def _own(self, kind: str) -> str:
        return arn("sagemaker", f"{kind}/hb-{self.environment}-*")

    @property
    def jobs(self) -> str:
        return self._own("training-job")

    @property
    def models(self) -> str:
        return self._own("model")

    @property
    def configs(self) -> str:
        return self._own("endpoint-config")

    @property
    def state_machine(self) -> str:
        return f"HeartBeat-{self.environment}"

    @property
    def executions(self) -> str:
        return _executions(self.state_machine)

    @property
    def weights_machine(self) -> str:
        return f"{self.state_machine}-Weights"

    @property
    def weights_executions(self) -> str:
        return _executions(self.weights_machine)

    @property
    def schedule_machine(self) -> str:
        return f"{self.state_machine}-Schedule"

    @property
    def holders(self) -> list[str]:
        """Executions that may hold an endpoint."""
        schedule = [_executions(self.schedule_machine)] if self.scheduled else []
        return [self.executions, *schedule]

    @property
    def state_machine_arns(self) -> list[str]:
        """Of runs, of the bringing of base weights, and of the schedule."""
        names = [self.state_machine, self.weights_machine, *([self.schedule_machine] if self.scheduled else [])]
        return [arn("states", f"stateMachine:{name}") for name in names]

    @property
    def endpoints(self) -> list[str]:
        """The app's endpoint, and those that an execution may name: see heartbeat.execution.RunRequest."""
        return self._of_endpoints("endpoint")

    @property
    def components(self) -> list[str]:
        """The inference components of those endpoints, by the same names; none where endpoints host none."""
        return self._of_endpoints("inference-component") if self.scales_to_zero else []

    @property
    def wake_alarms(self) -> list[str]:
        """See heartbeat.requests.wake_alarm."""
        name = requests.wake_alarm_name(environment=self.environment, endpoint=self.endpoint_name)
        return [arn("cloudwatch", f"alarm:{name}"), arn("cloudwatch", f"alarm:{name}-*")]

    def _of_endpoints(self, kind: str) -> list[str]:
        name = self.endpoint_name.lower()  # SageMaker writes names in ARNs in lower case
        return [arn("sagemaker", f"{kind}/{name}"), arn("sagemaker", f"{kind}/{name}-*")]

    @property
    def packages(self) -> list[str]:
        return [
            arn("sagemaker", f"model-package-group/{self.model_package_group}"),
            arn("sagemaker", f"model-package/{self.model_package_group}/*"),
        ]


def _executions(state_machine: str) -> str:
    return arn("states", f"execution:{state_machine}:*")


def orchestration(
    *,
    names: Names,
    training: iam.IRole,
    endpoint: iam.IRole,
    repository_arn: str,
    project_arn: str,
    alarm_arns: Sequence[str],
) -> list[iam.PolicyStatement]:
    """What the state machine's own tasks call (its Lambda grants come with the functions)."""
    return [
        *ensure_image(repository_arn, project_arn),
        run_jobs(names),
        allow(["states:StartExecution"], [arn("states", f"stateMachine:{names.weights_machine}")]),
        allow(["states:DescribeExecution", "states:StopExecution"], [names.weights_executions]),
        allow(["sagemaker:CreateModelPackage"], names.packages),
        allow(["sagemaker:CreateModel", "sagemaker:AddTags"], [names.models]),
        *([] if names.scales_to_zero else _deploy(names, alarm_arns)),
        pass_to_sagemaker(training.role_arn, endpoint.role_arn),
        managed_rules(
            "StepFunctionsGetEventsForSageMakerTrainingJobsRule",
            "StepFunctionsGetEventForCodeBuildStartBuildRule",
            "StepFunctionsGetEventsForStepFunctionsExecutionRule",
        ),
    ]


def _deploy(names: Names, alarm_arns: Sequence[str]) -> list[iam.PolicyStatement]:
    """What the states call that create and update an endpoint."""
    return [
        allow(["sagemaker:CreateEndpointConfig", "sagemaker:AddTags"], [names.configs]),
        allow(["sagemaker:CreateEndpoint", "sagemaker:UpdateEndpoint"], [*names.endpoints, names.configs]),
        allow(["sagemaker:DescribeEndpoint", "sagemaker:AddTags"], names.endpoints),
        allow(["cloudwatch:DescribeAlarms"], alarm_arns),  # an update may name only alarms that its caller may see
    ]


def ensure_image(repository_arn: str, project_arn: str) -> list[iam.PolicyStatement]:
    return [
        allow(["ecr:DescribeImages"], [repository_arn]),
        allow(["codebuild:StartBuild", "codebuild:StopBuild", "codebuild:BatchGetBuilds"], [project_arn]),
    ]


def run_jobs(names: Names) -> iam.PolicyStatement:
    """`createTrainingJob.sync`, with tags."""
    return allow(
        [
            "sagemaker:CreateTrainingJob",
            "sagemaker:DescribeTrainingJob",
            "sagemaker:StopTrainingJob",
            "sagemaker:ListTags",
            "sagemaker:AddTags",
        ],
        [names.jobs],
    )


def pass_to_sagemaker(*role_arns: str) -> iam.PolicyStatement:
    passed = {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}}
    return allow(["iam:PassRole"], role_arns, passed)


def managed_rules(*names: str) -> iam.PolicyStatement:
    """`.sync` learns through rules that Step Functions manages in this account that a job, build or execution ended."""
    return allow(
        ["events:PutTargets", "events:PutRule", "events:DescribeRule"],
        [arn("events", f"rule/{name}") for name in names],
    )


def read_served(names: Names, buckets: Buckets) -> list[iam.PolicyStatement]:
    """Reads which adapters the endpoint serves."""
    return [
        *buckets.read(layout.ENDPOINTS),
        allow(["sagemaker:DescribeEndpoint"], names.endpoints),
        allow(["sagemaker:DescribeEndpointConfig"], [names.configs]),
        allow(["sagemaker:DescribeModel"], [names.models]),
        *_describe_components(names),
    ]


def _describe_components(names: Names) -> list[iam.PolicyStatement]:
    return [allow(["sagemaker:DescribeInferenceComponent"], names.components)] if names.scales_to_zero else []


def _change_components(names: Names) -> list[iam.PolicyStatement]:
    """Makes, updates and deletes the component of an endpoint, which serves a model of a run's."""
    return [
        allow(
            ["sagemaker:CreateInferenceComponent", "sagemaker:UpdateInferenceComponent"],
            [*names.components, *names.endpoints, names.models],
        ),
        allow(
            ["sagemaker:AddTags", "sagemaker:DeleteInferenceComponent", "sagemaker:DescribeInferenceComponent"],
            names.components,
        ),
    ]


def host_model(names: Names, endpoint: iam.IRole, alarm_arns: Sequence[str]) -> list[iam.PolicyStatement]:
    """Makes an endpoint that hosts a component, and the component of a run's model; holds its scaling meanwhile."""
    return [
        allow(["sagemaker:CreateEndpointConfig", "sagemaker:AddTags"], [names.configs]),
        allow(["sagemaker:CreateEndpoint"], [*names.endpoints, names.configs]),
        allow(["sagemaker:AddTags", "sagemaker:DescribeEndpoint"], names.endpoints),
        *_change_components(names),
        allow(["sagemaker:UpdateInferenceComponentRuntimeConfig"], names.components),
        allow(["cloudwatch:DescribeAlarms"], alarm_arns),  # an update may name only alarms that its caller may see
        _deregister(),
        _end_waking(names),
        pass_to_sagemaker(endpoint.role_arn),
    ]


def _end_waking(names: Names) -> iam.PolicyStatement:
    return allow(["cloudwatch:DeleteAlarms"], names.wake_alarms)


def endpoint_records(buckets: Buckets) -> list[iam.PolicyStatement]:
    """Reads and conditionally writes what is remembered of endpoints."""
    return [*buckets.read(layout.ENDPOINTS), *buckets.write(layout.ENDPOINTS)]


def claim_endpoint(names: Names, buckets: Buckets) -> list[iam.PolicyStatement]:
    return [
        *endpoint_records(buckets),
        allow(["sagemaker:DescribeEndpoint"], names.endpoints),
        *_describe_components(names),
        _ask_holders(names),
    ]


def ask_endpoints(names: Names) -> iam.PolicyStatement:
    return allow(["sagemaker:InvokeEndpoint"], [*names.endpoints, *names.components])


def _ask_holders(names: Names) -> iam.PolicyStatement:
    """Whether the execution that holds the endpoint still goes on."""
    return allow(["states:DescribeExecution"], names.holders)


def switch_endpoint(names: Names, buckets: Buckets) -> list[iam.PolicyStatement]:
    """Deletes the endpoint and makes it again of the configuration that it had."""
    return [
        *endpoint_records(buckets),
        _ask_holders(names),
        allow(["sagemaker:DescribeEndpoint", "sagemaker:DeleteEndpoint", "sagemaker:AddTags"], names.endpoints),
        allow(["sagemaker:CreateEndpoint"], [*names.endpoints, names.configs]),
        allow(["sagemaker:DescribeEndpointConfig", "sagemaker:ListTags"], [names.configs]),
        *_scale(names),
    ]


_OF_SAGEMAKER = {"StringEquals": {"application-autoscaling:service-namespace": "sagemaker"}}


def _deregister() -> iam.PolicyStatement:
    targets = arn("application-autoscaling", "scalable-target/*")  # their names are AWS's own
    return allow(["application-autoscaling:DeregisterScalableTarget"], [targets], _OF_SAGEMAKER)


def _scale(names: Names) -> list[iam.PolicyStatement]:
    """Registers an endpoint with Application Auto Scaling, which acts by its own service-linked role; the caller needs
    what that does on SageMaker and CloudWatch too."""
    return [
        _deregister(),
        allow(
            ["application-autoscaling:PutScalingPolicy", "application-autoscaling:RegisterScalableTarget"],
            [arn("application-autoscaling", "scalable-target/*")],
            _OF_SAGEMAKER,
        ),
        *(_scale_component(names) if names.scales_to_zero else _scale_variant(names)),
        allow(
            ["iam:CreateServiceLinkedRole"],
            [f"arn:{Aws.PARTITION}:iam::{Aws.ACCOUNT_ID}:role/aws-service-role/*/{SCALING_ROLE}"],
            {"StringEquals": {"iam:AWSServiceName": _SCALING}},
        ),
    ]


def _scale_variant(names: Names) -> list[iam.PolicyStatement]:
    return [
        allow(
            ["sagemaker:DescribeEndpoint", "sagemaker:UpdateEndpointWeightsAndCapacities"],
            names.endpoints,
        ),
        allow(["sagemaker:DescribeEndpointConfig"], [names.configs]),
        _tracking_alarms(f"endpoint/{names.endpoint_name}"),
    ]


def _scale_component(names: Names) -> list[iam.PolicyStatement]:
    return [
        allow(
            ["sagemaker:DescribeInferenceComponent", "sagemaker:UpdateInferenceComponentRuntimeConfig"],
            names.components,
        ),
        _tracking_alarms(f"inference-component/{names.endpoint_name}"),
        allow(["cloudwatch:PutMetricAlarm"], names.wake_alarms),
    ]


def _tracking_alarms(resource: str) -> iam.PolicyStatement:
    return allow(
        ["cloudwatch:DeleteAlarms", "cloudwatch:DescribeAlarms", "cloudwatch:PutMetricAlarm"],
        [arn("cloudwatch", f"alarm:TargetTracking-{resource}*")],
    )


def accept_endpoint(names: Names, buckets: Buckets) -> list[iam.PolicyStatement]:
    return [
        *endpoint_records(buckets),
        allow(["sagemaker:ListEndpoints"], ["*"]),  # SageMaker's lists have no resource; they show names only
        allow(["sagemaker:DescribeEndpoint", "sagemaker:AddTags"], names.endpoints),
        allow(["sagemaker:DeleteModel"], [names.models]),
        allow(["sagemaker:DeleteEndpointConfig"], [names.configs]),
        *_scale(names),
    ]


def end_all(names: Names) -> list[iam.PolicyStatement]:
    """Ends everything that runs made, when the stack is deleted."""
    return [
        allow(
            [
                "sagemaker:ListEndpointConfigs",
                "sagemaker:ListEndpoints",
                "sagemaker:ListModels",
                "sagemaker:ListTrainingJobs",
            ],
            ["*"],  # SageMaker's lists have no resource; they show names only
        ),
        allow(["states:ListExecutions"], names.state_machine_arns),
        allow(["states:StopExecution"], [*names.holders, names.weights_executions]),
        allow(["sagemaker:StopTrainingJob"], [names.jobs]),
        allow(["sagemaker:DescribeEndpoint", "sagemaker:DeleteEndpoint"], names.endpoints),
        allow(["sagemaker:DeleteEndpointConfig"], [names.configs]),
        allow(["sagemaker:DeleteModel"], [names.models]),
        _deregister(),
        allow(["sagemaker:DeleteModelPackage", "sagemaker:ListModelPackages"], names.packages),
        *(_end_components(names) if names.scales_to_zero else []),
    ]


def _end_components(names: Names) -> list[iam.PolicyStatement]:
    return [
        allow(
            ["application-autoscaling:DescribeScalableTargets", "sagemaker:ListInferenceComponents"],
            ["*"],  # neither has a resource; they show names only
        ),
        allow(["sagemaker:DeleteInferenceComponent", "sagemaker:DescribeInferenceComponent"], names.components),
        _end_waking(names),
    ]


def clean_up(names: Names, buckets: Buckets) -> list[iam.PolicyStatement]:
    """Ends what a run left that bills, and goes back to the endpoint's previous configuration."""
    return [
        *endpoint_records(buckets),
        allow(
            [
                "sagemaker:ListEndpointConfigs",
                "sagemaker:ListEndpoints",
                "sagemaker:ListModels",
                "sagemaker:ListTrainingJobs",
            ],
            ["*"],  # SageMaker's lists have no resource; they show names only
        ),
        allow(["sagemaker:StopTrainingJob"], [names.jobs]),
        allow(["sagemaker:DeleteModel"], [names.models]),
        allow(["sagemaker:DeleteEndpointConfig"], [names.configs]),
        allow(["sagemaker:DescribeEndpoint", "sagemaker:DeleteEndpoint"], names.endpoints),
        *(
            [
                allow(["sagemaker:DescribeEndpointConfig"], [names.configs]),
                *_change_components(names),
                *_scale(names),
            ]
            if names.scales_to_zero
            else [allow(["sagemaker:UpdateEndpoint"], [*names.endpoints, names.configs])]
        ),
    ]
