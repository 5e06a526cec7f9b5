"""Bodies of the SageMaker calls: the one place that builds them.

A value may be a JSONata expression's text (`{% $plan.image %}`), so that the state machine's Arguments at synth
and a request made from Python have one shape. Tests hold each body against botocore's own service model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from heartbeat import metrics
from heartbeat.container_settings import BASE_NAME as BASE_NAME
from heartbeat.memory import GIB

Body = dict[str, Any]
Number = int | str

TUNED_NAME = "stanley"
"""The name of an adapter for which none was chosen."""
VARIANT = "main"
CHECKPOINT_PATH = "/opt/ml/checkpoints"

# AL2023 host image that carries the driver which CUDA 13 containers need.
# Source: SageMaker "InferenceAmiVersion" reference, read 2026-11.
INFERENCE_AMI = "al2023-ami-sagemaker-inference-gpu-4-1"

UPDATES = ("all_at_once", "canary", "rolling")
"""How an endpoint's traffic moves to a new model: see `deployment`."""
BAKING_SECONDS = 600
"""How long alarms are watched after traffic moved: several of their periods of a minute, with time to be called in."""
BLUE_GREEN_SECONDS = 3 * 3600
"""Limit of a blue/green update: download and start-up have 3,600 s each at the most, and baking may come twice."""
ROLLING_SECONDS = 8 * 3600
"""Limit of a rolling update, whose instances start one after the other: SageMaker's own."""
SCALE_OUT_SECONDS = 900
"""No further instance is added for as long as one may take to download the base and start. Assumed, not measured."""
SCALE_IN_SECONDS = 1800
"""None is taken away for twice that: it would have to come again."""

COPY_MEMORY_MB = 1024
"""Host memory that a component's copy asks for. SageMaker places copies by it, and it limits nothing: every server has
more, and since a copy takes all accelerators of its instance, none is placed beside it. More is a risk without a use:
an ml.g5.xlarge, which has 16 GiB, took 1,024 and refused 4,096 (a field report, 2026)."""
WAKE_PERIOD_SECONDS = 60
"""Of the metric by which an endpoint that is asleep learns that it was called."""

START_LIMIT_SECONDS = 3600
"""The longest that SageMaker lets a model's download take, and again its container's start."""
_PATIENT_START = {
    "ModelDataDownloadTimeoutInSeconds": START_LIMIT_SECONDS,
    "ContainerStartupHealthCheckTimeoutInSeconds": START_LIMIT_SECONDS,
}

MAX_INSTANCE_POOLS = 5
"""SageMaker's limit of a variant (CreateEndpointConfig, API reference)."""


def tags(*, environment: str, run: str, **more: str) -> list[Body]:
    """Tags of everything that a run creates; `more` are those of some, by the name behind `heartbeat:`."""
    values = {"environment": environment, "run": run, **more}
    return [{"Key": f"heartbeat:{name}", "Value": value} for name, value in values.items()]


def stopping_condition(*, max_runtime_seconds: int, use_spot: bool) -> Body:
    """StoppingCondition; on spot the job may wait another hour for capacity.

    SageMaker refuses MaxWaitTimeInSeconds without spot, and spot without it.
    """
    condition = {"MaxRuntimeInSeconds": max_runtime_seconds}
    if use_spot:
        condition["MaxWaitTimeInSeconds"] = max_runtime_seconds + 3600
    return condition


def volume_size_gib(*, base_model_bytes: float, dataset_bytes: float, at_least: int) -> int:
    """EBS volume for the inputs once, the adapter and its checkpoints, with a fifth to spare.

    Instances with NVMe disks ignore it. SageMaker's own limit is 16,384 GiB.
    """
    needed = math.ceil(1.2 * (base_model_bytes + dataset_bytes) / GIB) + 20
    return min(max(needed, at_least), 16384)


def create_training_job(
    *,
    name: str,
    image: str,
    role_arn: str,
    hyperparameters: Mapping[str, str] | str,
    input_data: Sequence[Body] | str,
    output_uri: str,
    checkpoint_uri: str,
    kms_key_arn: str,
    instance_type: str,
    volume_size: Number,
    stopping: Mapping[str, int] | str,
    use_spot: bool | str,
    job_tags: Sequence[Mapping[str, str]],
) -> Body:
    """CreateTrainingJob: one instance, File mode, no network in the container, uncompressed output.

    `volume_size` in GiB. Network isolation: SageMaker itself moves the data, so the trainer needs neither the
    internet nor credentials.
    """
    return {
        "TrainingJobName": name,
        "AlgorithmSpecification": {
            "TrainingImage": image,
            "TrainingInputMode": "File",
            "EnableSageMakerMetricsTimeSeries": True,
            "MetricDefinitions": metrics.definitions(),
        },
        "RoleArn": role_arn,
        "HyperParameters": hyperparameters,
        "InputDataConfig": input_data,
        "OutputDataConfig": {
            "S3OutputPath": output_uri,
            "KmsKeyId": kms_key_arn,
            "CompressionType": "NONE",
        },
        "CheckpointConfig": {"S3Uri": checkpoint_uri, "LocalPath": CHECKPOINT_PATH},
        "ResourceConfig": {
            "InstanceType": instance_type,
            "InstanceCount": 1,
            "VolumeSizeInGB": volume_size,
        },
        "StoppingCondition": stopping,
        "EnableManagedSpotTraining": use_spot,
        "EnableNetworkIsolation": True,
        "EnableInterContainerTrafficEncryption": False,
        # Service faults only (InternalServerError); MaxRuntimeInSeconds covers all attempts together.
        "RetryStrategy": {"MaximumRetryAttempts": 1},
        "Tags": list(job_tags),
    }


def bring_weights_job(
    *,
    name: str,
    image: str,
    role_arn: str,
    hyperparameters: Mapping[str, str] | str,
    output_uri: str,
    kms_key_arn: str,
    instance_type: str,
    volume_size: Number,
    max_runtime_seconds: Number,
    job_tags: Sequence[Mapping[str, str]],
) -> Body:
    """CreateTrainingJob of the training image's other program, which writes to S3 itself.

    The one job with a network: it fetches from the hub. It has no input, and what SageMaker would upload is empty.
    """
    return {
        "TrainingJobName": name,
        "AlgorithmSpecification": {
            "TrainingImage": image,
            "TrainingInputMode": "File",
            "ContainerEntrypoint": ["python", "-m", "training_code.bring_base"],
            "EnableSageMakerMetricsTimeSeries": True,
            "MetricDefinitions": metrics.definitions(metrics.BRINGING),
        },
        "RoleArn": role_arn,
        "HyperParameters": hyperparameters,
        "OutputDataConfig": {"S3OutputPath": output_uri, "KmsKeyId": kms_key_arn, "CompressionType": "NONE"},
        "ResourceConfig": {"InstanceType": instance_type, "InstanceCount": 1, "VolumeSizeInGB": volume_size},
        "StoppingCondition": {"MaxRuntimeInSeconds": max_runtime_seconds},
        "EnableNetworkIsolation": False,
        "RetryStrategy": {"MaximumRetryAttempts": 1},
        "Tags": list(job_tags),
    }


def channel(name: str, uri: str) -> Body:
    """One of the job's inputs: `training`, `model`, and `heldout` for rows to judge by that are a file of their own."""
    return {
        "ChannelName": name,
        "DataSource": {
            "S3DataSource": {
                "S3DataType": "S3Prefix",
                "S3Uri": uri,
                "S3DataDistributionType": "FullyReplicated",
            }
        },
        "InputMode": "File",
    }


def container(
    *, image: str, base_model_uri: str, adapter_uris: Mapping[str, str], environment: Mapping[str, str]
) -> Body:
    """ContainerDefinition: the base uncompressed at /opt/ml/model, each adapter in a channel of its name."""
    return {
        "Image": image,
        "ModelDataSource": {"S3DataSource": _model_source(base_model_uri)},
        "AdditionalModelDataSources": [
            {"ChannelName": name, "S3DataSource": _model_source(uri)} for name, uri in adapter_uris.items()
        ],
        "Environment": dict(environment),
    }


def _model_source(uri: str) -> Body:
    return {"S3Uri": uri, "S3DataType": "S3Prefix", "CompressionType": "None"}


def create_model_package(
    *,
    group: str,
    description: str,
    image: str,
    adapter_uri: str,
    approval: str,
    metadata: Mapping[str, str],
) -> Body:
    """CreateModelPackage: one version in the registry for each adapter that passed the gate.

    The package holds the adapter; the base is named in the metadata (a registry copy of 217 GB each run would
    be waste). No Tags: SageMaker takes them on the group, not on a version.
    """
    return {
        "ModelPackageGroupName": group,
        "ModelPackageDescription": description,
        "InferenceSpecification": {
            "Containers": [{"Image": image, "ModelDataSource": {"S3DataSource": _model_source(adapter_uri)}}],
            "SupportedContentTypes": ["application/json"],
            "SupportedResponseMIMETypes": ["application/json"],
        },
        "ModelApprovalStatus": approval,
        "CustomerMetadataProperties": dict(metadata),
    }


def create_model(
    *,
    name: str,
    role_arn: str,
    primary_container: Mapping[str, Any] | str,
    model_tags: Sequence[Mapping[str, str]],
    internet: bool = False,
) -> Body:
    """CreateModel. Without `internet` the container has no network at all; SageMaker brings model data and requests."""
    return {
        "ModelName": name,
        "ExecutionRoleArn": role_arn,
        "PrimaryContainer": primary_container,
        "EnableNetworkIsolation": not internet,
        "Tags": list(model_tags),
    }


def instance_pools(instance_types: Sequence[str]) -> list[Body]:
    """InstancePools, best first: where SageMaker has no capacity for one it tries the next. The first few of many."""
    return [
        {"InstanceType": name, "Priority": priority}
        for priority, name in enumerate(instance_types[:MAX_INSTANCE_POOLS], start=1)
    ]


def create_endpoint_config(
    *,
    name: str,
    model: str,
    instance_type: str,
    config_tags: Sequence[Mapping[str, str]],
    num_instances: Number = 1,
    pools: Sequence[Mapping[str, Any]] | str | None = None,
) -> Body:
    """CreateEndpointConfig with the longest start-up and download times that SageMaker allows (3,600 s).

    `pools`, in place of `instance_type`, are the instances that it may fall back on: see `instance_pools`.

    No KmsKeyId: every instance that holds Scout has local NVMe disks, which encrypt in hardware, and
    SageMaker refuses a key for those.
    """
    return {
        "EndpointConfigName": name,
        "ProductionVariants": [
            {
                "VariantName": VARIANT,
                "ModelName": model,
                **({"InstancePools": pools} if pools else {"InstanceType": instance_type}),
                "InitialInstanceCount": num_instances,
                "InitialVariantWeight": 1,
                **_PATIENT_START,
                "InferenceAmiVersion": INFERENCE_AMI,
            }
        ],
        "Tags": list(config_tags),
    }


def create_endpoint(*, name: str, config: str, endpoint_tags: Sequence[Mapping[str, str]]) -> Body:
    return {"EndpointName": name, "EndpointConfigName": config, "Tags": list(endpoint_tags)}


def update_endpoint(*, name: str, config: str, deployment_config: Mapping[str, Any], retain_count: bool) -> Body:
    """UpdateEndpoint: the old model serves until the new one does, and again if it fails or an alarm goes off.

    `retain_count` keeps the number of instances that automatic scaling has come to, and nothing else of the old one.
    """
    retained: Body = {
        "RetainAllVariantProperties": True,
        "ExcludeRetainedVariantProperties": [{"VariantPropertyType": "DataCaptureConfig"}],
    }
    return {
        "EndpointName": name,
        "EndpointConfigName": config,
        "DeploymentConfig": dict(deployment_config),
        **(retained if retain_count else {}),
    }


def deployment(*, update: str, rollback: Mapping[str, Any] | str) -> Body:
    """DeploymentConfig of one of UPDATES; `rollback` is its AutoRollbackConfiguration.

    `all_at_once` and `canary` are blue/green: for the time of the update there is a second fleet, which bills too.
    `rolling` replaces one instance after the other and has one instance more at a time. Canary and rolling need two
    instances, since SageMaker moves at most half of a fleet at first.
    """
    if update == "rolling":
        policy: Body = {
            "RollingUpdatePolicy": {
                "MaximumBatchSize": {"Type": "INSTANCE_COUNT", "Value": 1},
                "WaitIntervalInSeconds": BAKING_SECONDS,
                "MaximumExecutionTimeoutInSeconds": ROLLING_SECONDS,
            }
        }
    else:
        canary: Body = {"Type": "CANARY", "CanarySize": {"Type": "INSTANCE_COUNT", "Value": 1}}
        routing = canary if update == "canary" else {"Type": "ALL_AT_ONCE"}
        policy = {
            "BlueGreenUpdatePolicy": {
                "TrafficRoutingConfiguration": {**routing, "WaitIntervalInSeconds": BAKING_SECONDS},
                "TerminationWaitInSeconds": BAKING_SECONDS,
                "MaximumExecutionTimeoutInSeconds": BLUE_GREEN_SECONDS,
            }
        }
    return {**policy, "AutoRollbackConfiguration": rollback}


def create_component_endpoint_config(
    *,
    name: str,
    role_arn: str,
    instance_type: str,
    most_copies: int,
    config_tags: Sequence[Mapping[str, str]],
    internet: bool = False,
) -> Body:
    """CreateEndpointConfig of an endpoint that hosts inference components, and may have no instance.

    One copy fills an instance; there may be one more of both, since a rolling update starts a new copy beside the old
    ones. Without `internet` the containers have no network, as in `create_model`.
    """
    return {
        "EndpointConfigName": name,
        "ExecutionRoleArn": role_arn,
        "EnableNetworkIsolation": not internet,
        "ProductionVariants": [
            {
                "VariantName": VARIANT,
                "InstanceType": instance_type,
                "InitialInstanceCount": 1,
                "InferenceAmiVersion": INFERENCE_AMI,
                "ManagedInstanceScaling": {
                    "Status": "ENABLED",
                    "MinInstanceCount": 0,
                    "MaxInstanceCount": most_copies + 1,
                },
                "RoutingConfig": {"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"},
            }
        ],
        "Tags": list(config_tags),
    }


def create_component(
    *, endpoint: str, model: str, accelerators: int, component_tags: Sequence[Mapping[str, str]]
) -> Body:
    """CreateInferenceComponent: the endpoint's only one, of its name, with one copy (SageMaker refuses none)."""
    return {
        "InferenceComponentName": endpoint,
        "EndpointName": endpoint,
        "VariantName": VARIANT,
        "Specification": component_specification(model=model, accelerators=accelerators),
        "RuntimeConfig": {"CopyCount": 1},
        "Tags": list(component_tags),
    }


def component_specification(*, model: str, accelerators: int) -> Body:
    """What a component serves, with the longest start-up and download times that SageMaker allows (3,600 s).

    `accelerators` are all that the instance has: one copy an instance.
    """
    return {
        "ModelName": model,
        "ComputeResourceRequirements": {
            "NumberOfAcceleratorDevicesRequired": accelerators,
            "MinMemoryRequiredInMb": COPY_MEMORY_MB,
        },
        "StartupParameters": _PATIENT_START,
    }


def update_component(*, endpoint: str, specification: Mapping[str, Any], alarms: Sequence[str] = ()) -> Body:
    """UpdateInferenceComponent, copy by copy: old ones serve until new ones do, and again if those fail or an alarm
    goes off."""
    rollback = {"AutoRollbackConfiguration": {"Alarms": [{"AlarmName": name} for name in alarms]}}
    return {
        "InferenceComponentName": endpoint,
        "Specification": dict(specification),
        "DeploymentConfig": {
            "RollingUpdatePolicy": {
                "MaximumBatchSize": {"Type": "COPY_COUNT", "Value": 1},
                "WaitIntervalInSeconds": BAKING_SECONDS,
                "MaximumExecutionTimeoutInSeconds": ROLLING_SECONDS,
            },
            **(rollback if alarms else {}),
        },
    }


def component_copies(*, endpoint: str, copies: int) -> Body:
    """UpdateInferenceComponentRuntimeConfig."""
    return {"InferenceComponentName": endpoint, "DesiredRuntimeConfig": {"CopyCount": copies}}


def instances_while_updating(update: str, num_instances: int) -> int:
    """The most instances that bill, and need a quota, while an endpoint of so many is updated."""
    return num_instances + 1 if update == "rolling" else 2 * num_instances


def scaled_variant(endpoint: str) -> Body:
    """What Application Auto Scaling calls the number of an endpoint's instances."""
    return {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{endpoint}/variant/{VARIANT}",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }


def scalable_target(*, endpoint: str, least: int, most: int) -> Body:
    """RegisterScalableTarget. `least` is at least 1: only an endpoint of components can have no instance."""
    return {**scaled_variant(endpoint), "MinCapacity": least, "MaxCapacity": most}


def scaling_policy(*, endpoint: str, concurrency: float) -> Body:
    """PutScalingPolicy: as many instances as keep `concurrency` requests at once on each.

    The metric is a model's requests in flight, every ten seconds; calls a minute, the usual one, say little of answers
    that take seconds.
    """
    return {
        **scaled_variant(endpoint),
        **_tracking(concurrency, "SageMakerVariantConcurrentRequestsPerModelHighResolution"),
    }


def scaled_component(endpoint: str) -> Body:
    """What Application Auto Scaling calls the number of copies of an endpoint's component."""
    return {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"inference-component/{endpoint}",
        "ScalableDimension": "sagemaker:inference-component:DesiredCopyCount",
    }


def component_target(*, endpoint: str, most: int) -> Body:
    """RegisterScalableTarget: from no copy, and with it no instance, to `most`."""
    return {**scaled_component(endpoint), "MinCapacity": 0, "MaxCapacity": most}


def component_policy(*, endpoint: str, concurrency: float) -> Body:
    """PutScalingPolicy: as many copies as keep `concurrency` requests at once on each, and none where nobody asks."""
    return {
        **scaled_component(endpoint),
        **_tracking(concurrency, "SageMakerInferenceComponentConcurrentRequestsPerCopyHighResolution"),
    }


def wake_policy(endpoint: str) -> Body:
    """PutScalingPolicy: one copy more when `wake_alarm` goes off. Target tracking has no metric of a component without
    a copy. The cooldown is that of a copy that starts, since calls are refused until it does."""
    return {
        **scaled_component(endpoint),
        "PolicyName": "wake",
        "PolicyType": "StepScaling",
        "StepScalingPolicyConfiguration": {
            "AdjustmentType": "ChangeInCapacity",
            "MetricAggregationType": "Maximum",
            "Cooldown": SCALE_OUT_SECONDS,
            "StepAdjustments": [{"MetricIntervalLowerBound": 0, "ScalingAdjustment": 1}],
        },
    }


def wake_alarm_name(*, environment: str, endpoint: str) -> str:
    return f"HeartBeat-{environment}-wake-{endpoint}"


def wake_alarm(*, environment: str, endpoint: str, policy_arn: str) -> Body:
    """PutMetricAlarm: a call was refused since there is no copy to answer it."""
    return {
        "AlarmName": wake_alarm_name(environment=environment, endpoint=endpoint),
        "AlarmDescription": f"Endpoint {endpoint} was called while it had no instance: it is started",
        "AlarmActions": [policy_arn],
        "Namespace": "AWS/SageMaker",
        "MetricName": "NoCapacityInvocationFailures",
        "Dimensions": [{"Name": "InferenceComponentName", "Value": endpoint}],
        "Statistic": "Maximum",
        "Period": WAKE_PERIOD_SECONDS,
        "EvaluationPeriods": 1,
        "Threshold": 1,
        "ComparisonOperator": "GreaterThanOrEqualToThreshold",
        "TreatMissingData": "missing",
    }


def _tracking(concurrency: float, metric: str) -> Body:
    """What target tracking of a variant and of a component have in common."""
    return {
        "PolicyName": "concurrent-requests",
        "PolicyType": "TargetTrackingScaling",
        "TargetTrackingScalingPolicyConfiguration": {
            "TargetValue": concurrency,
            "PredefinedMetricSpecification": {"PredefinedMetricType": metric},
            "ScaleOutCooldown": SCALE_OUT_SECONDS,
            "ScaleInCooldown": SCALE_IN_SECONDS,
        },
    }


def chat(
    *,
    model: str,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] = (),
    max_tokens: int = 256,
    temperature: float = 0.0,
) -> Body:
    """OpenAI-style chat body of InvokeEndpoint. `model` is an adapter's name, or BASE_NAME for none."""
    body = {
        "model": model,
        "messages": [dict(message) for message in messages],
        "max_tokens": max_tokens,
        "temperature": temperature,
    }
    return {**body, "tools": [dict(tool) for tool in tools]} if tools else body
