"""What cdk-nag finds in the pipeline's policies, and why each may stand."""

from __future__ import annotations

from heartbeat import layout, requests
from stacks.nag import accept_wildcards, acknowledge
from stacks.permissions import SCALING_ROLE
from stacks.pipeline import Pipeline
from stacks.settings import Settings

_ANY_RESOURCE = {
    "ExplainFailureRole": "SageMaker's List calls have no resource to be limited to; they show names only.",
    "AcceptEndpointRole": "SageMaker's List calls have no resource to be limited to; they show names only.",
    "CleanUpRole": "SageMaker's List calls have no resource to be limited to; they show names only.",
    "EndAllRole": "SageMaker's List calls have no resource to be limited to; they show names only.",
    "TrainingRole": "ecr:GetAuthorizationToken has no resource; cloudwatch:PutMetricData is limited by namespace.",
    "EndpointRole": "ecr:GetAuthorizationToken has no resource; cloudwatch:PutMetricData is limited by namespace.",
    "CleanUpStateMachineRole": "X-Ray and CloudWatch's log delivery have no resources to be limited to.",
    "ScheduleStateMachineRole": "X-Ray and CloudWatch's log delivery have no resources to be limited to.",
    "StateMachineRole": "X-Ray and CloudWatch's log delivery have no resources to be limited to.",
    "WeightsRole": "ecr:GetAuthorizationToken has no resource; cloudwatch:PutMetricData is limited by namespace.",
    "WeightsStateMachineRole": "X-Ray and CloudWatch's log delivery have no resources to be limited to.",
}


def wildcards(settings: Settings) -> dict[str, str]:
    """The wildcards that a run needs because it makes names that no template can know."""
    own = f"/hb-{settings.environment}-*"
    switching = f":execution:HeartBeat-{settings.environment}-Schedule:*"
    return {
        f"/{layout.DATASETS}*": "An execution may name any dataset below this prefix.",
        f"/{layout.BASE_MODELS}*": "A checkpoint is a folder of many files.",
        f"/{layout.RUNS}*": "Each execution has a folder of its own.",
        f":training-job{own}": "Each attempt is a job of its own.",
        f":model{own}": "Each run makes a model of its own.",
        f":endpoint-config{own}": "Each run makes a configuration of its own.",
        f"/{layout.CHECKPOINTS}*": "Each execution has checkpoints of its own.",
        f"/{layout.ENDPOINTS}*": "Each endpoint that an execution may name has a record of its own.",
        f":execution:HeartBeat-{settings.environment}:*": "Any execution of the app may hold an endpoint.",
        f":endpoint/{settings.endpoint_name.lower()}-*": "An execution may name another endpoint beginning so.",
        f":model-package/heartbeat-{settings.environment}/*": "Each adapter that passes is a version of its own.",
        ":log-group:/aws/sagemaker/TrainingJobs*": "SageMaker makes the log group itself.",
        ":log-group:/aws/sagemaker/TrainingJobs*:log-stream:*": "Each job's containers have streams of their own.",
        ":log-group:/aws/sagemaker/Endpoints*": "SageMaker makes the log group itself.",
        ":log-group:/aws/sagemaker/Endpoints*:log-stream:*": "Each instance has a stream of its own.",
        **{f":s3:::{name}/*": "The settings name this bucket of datasets." for name in settings.extra_dataset_buckets},
        f":role/aws-service-role/*/{SCALING_ROLE}": "One role of AWS's, below a folder of its service's name.",
        ":scalable-target/*": "Application Auto Scaling names its targets itself; limited to SageMaker's.",
        **{f":s3:::{name}/*": "The settings name this bucket of base weights." for name in settings.model_buckets},
        f":execution:HeartBeat-{settings.environment}-Weights:*": "Each bringing of base weights is an execution.",
        **({switching: "Each switching of the endpoint is an execution."} if settings.schedule else {}),
        **(_of_components(settings) if settings.endpoint_scale_to_zero else _of_variants(settings)),
        ".Arn>:*": "The state machine calls its own functions in whichever version they are.",
    }


def _of_variants(settings: Settings) -> dict[str, str]:
    return {f":alarm:TargetTracking-endpoint/{settings.endpoint_name}*": "Scaling names its alarms by the endpoint."}


def _of_components(settings: Settings) -> dict[str, str]:
    name = settings.endpoint_name
    wake = requests.wake_alarm_name(environment=settings.environment, endpoint=name)
    return {
        f":inference-component/{name.lower()}-*": "An execution may name another endpoint beginning so.",
        f":alarm:{wake}-*": "An execution may name another endpoint beginning so.",
        f":alarm:TargetTracking-inference-component/{name}*": "Scaling names its alarms by the component.",
        ":log-group:/aws/sagemaker/InferenceComponents*": "SageMaker makes the log group itself.",
        ":log-group:/aws/sagemaker/InferenceComponents*:log-stream:*": "Each copy has a stream of its own.",
    }


def accept_pipeline_findings(pipeline: Pipeline, settings: Settings) -> None:
    accept_wildcards(pipeline, wildcards(settings))
    for role, reason in _ANY_RESOURCE.items():
        found = pipeline.node.try_find_child(role)  # the schedule's is there where there is a schedule
        if found:
            acknowledge(found, {"AwsSolutions-IAM5[Resource::*]": reason})
    for function in pipeline.functions.values():
        acknowledge(function, {"AwsSolutions-L1": "Python 3.13 has security support until October 2029."})
