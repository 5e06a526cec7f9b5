"""What the states of a run share: how they call, retry and fail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aws_cdk import Aws, Duration
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_stepfunctions as sfn
from aws_cdk import aws_stepfunctions_tasks as tasks
from constructs import Construct

from heartbeat import layout, requests

LAMBDA_FAULTS = (
    "Lambda.ServiceException",
    "Lambda.AWSLambdaException",
    "Lambda.SdkClientException",
    "Lambda.TooManyRequestsException",
    "Lambda.ClientExecutionTimeoutException",
)
"""Faults of the service itself, before or instead of the handler's answer."""


def wait_for_sagemaker(state: tasks.LambdaInvoke) -> None:
    """Calls the clean-up again while an endpoint is being changed: 9 hours in calls of 13 minutes, longer than an
    update may take (heartbeat.requests)."""
    state.add_retry(
        errors=["StillChanging"],
        interval=Duration.seconds(5),
        backoff_rate=1,
        max_attempts=40,
        jitter_strategy=sfn.JitterType.FULL,
    )


@dataclass(frozen=True, kw_only=True)
class EndpointInputs:
    """The app's own endpoint, and how endpoints are deployed to."""

    name: str
    num_instances: int
    scales: bool
    """Whether the number of instances is changed by what is asked of them."""
    scales_to_zero: bool
    """Whether endpoints host an inference component, which the handler `host_model` makes and updates."""
    update: str
    """One of heartbeat.requests.UPDATES."""
    alarm_names: Sequence[str]
    """Any of them in alarm during an update brings the old model back."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the graph refers to."""

    functions: Mapping[str, lambda_.IFunction]
    defaults: Mapping[str, Any]
    """Of the execution's input; see heartbeat.execution.RunRequest."""
    environment: str
    artifact_bucket: str
    key_arn: str
    repository_name: str
    image_tag: str
    image_uri: str
    build_project: str
    serving_image: str
    serving_internet: bool
    serving_falls_back: bool
    """Whether several instances were named for endpoints, so that another can stand in where there is no capacity."""
    model_package_group: str
    weights_machine: str
    """Name of the state machine that brings base weights"""
    weight_format: str
    training_role_arn: str
    endpoint_role_arn: str
    endpoint: EndpointInputs


@dataclass(frozen=True)
class Part:
    """Some states that belong together: where they begin, and which of them go on to what comes next."""

    first: sfn.State
    last: Sequence[Any]

    def then(self, following: sfn.IChainable) -> None:
        for state in self.last:
            if isinstance(state, sfn.Choice):
                state.otherwise(following)
            else:
                state.next(following)


class States(Construct):
    """Makes states. One that fails leaves $failed behind and goes to `explain`, which is set first."""

    explain: sfn.State

    def __init__(self, scope: Construct, id_: str, *, inputs: Inputs) -> None:
        super().__init__(scope, id_)
        self.inputs = inputs

    def invoke(
        self,
        name: str,
        function: str,
        *,
        comment: str,
        payload: Mapping[str, Any],
        assign: Mapping[str, Any],
        minutes: int = 2,
        catch: bool = True,
    ) -> tasks.LambdaInvoke:
        state = tasks.LambdaInvoke.jsonata(
            self,
            name,
            comment=comment,
            lambda_function=self.inputs.functions[function],
            payload=sfn.TaskInput.from_object({"execution": "{% $execution %}", **payload}),
            assign=assign,
            task_timeout=sfn.Timeout.duration(Duration.minutes(minutes)),
            retry_on_service_exceptions=False,
        )
        self.retry(state, LAMBDA_FAULTS)
        if catch:
            self.catch(state, name)
        return state

    def call(
        self,
        name: str,
        resource: str,
        *,
        comment: str,
        arguments: Mapping[str, Any],
        assign: Mapping[str, Any] | None = None,
        seconds: int | str = 60,
        catch: bool = True,
    ) -> sfn.CustomState:
        """A task that calls a service. The CDK's own task constructs lack fields that the requests need, and write
        a broken AddTags grant for a job name in JSONata; stacks/permissions.py grants what these call."""
        state = sfn.CustomState(
            self,
            name,
            state_json={
                "Type": "Task",
                "Comment": comment,
                "Resource": f"arn:{Aws.PARTITION}:states:::{resource}",
                "Arguments": dict(arguments),
                "TimeoutSeconds": seconds,
                **({"Assign": dict(assign)} if assign else {}),
            },
        )
        self.retry(state, _faults(resource))
        if catch:
            self.catch(state, name)
        return state

    @staticmethod
    def retry(state: sfn.CustomState | tasks.LambdaInvoke, errors: Sequence[str]) -> None:
        state.add_retry(
            errors=list(errors),
            interval=Duration.seconds(2),
            backoff_rate=2,
            max_attempts=4,
            max_delay=Duration.seconds(30),
            jitter_strategy=sfn.JitterType.FULL,
        )

    def catch(self, state: sfn.CustomState | tasks.LambdaInvoke, name: str) -> None:
        state.add_catch(
            self.explain,
            errors=["States.ALL"],
            assign={"failed": {"step": name, "error": "{% $states.errorOutput %}"}},
        )

    def failed(self) -> sfn.Fail:
        """The end of an execution that failed, after `explain`."""
        return sfn.Fail.jsonata(
            self,
            "Failed",
            comment="Error is one of heartbeat.failures.Name; Cause says what to do",
            error="{% $explained.error %}",
            cause="{% $explained.cause %}",
        )

    def own(self, part: str) -> str:
        """JSONata for the URI of one folder of this run."""
        folder = getattr(layout.Run("' & $execution.name & '"), part)
        return f"{{% 's3://{self.inputs.artifact_bucket}/{folder}' %}}"

    def tags(self, **more: str) -> list[dict[str, str]]:
        return requests.tags(environment=self.inputs.environment, run="{% $execution.name %}", **more)

    def for_report(self) -> dict[str, str]:
        """What the report shows of the execution beside the files of the run's folder."""
        return {
            "run": "{% $run %}",
            "training": "{% $training %}",
            "tried": "{% $tried %}",
            "endpoint": "{% $endpoint %}",
            "started": "{% $states.context.Execution.StartTime %}",
        }


def _faults(resource: str) -> list[str]:
    """Throttling and service faults of one integration, by the names that Step Functions gives them."""
    if resource.startswith("sagemaker:"):
        # The optimised integration has one name for throttling, denial and bad requests; the attempts are few.
        return ["SageMaker.AmazonSageMakerException", "SageMaker.ThrottlingException"]
    if resource.startswith("codebuild:"):
        return ["CodeBuild.AWSCodeBuildException", "CodeBuild.ThrottlingException"]
    if resource.startswith("states:"):
        return ["StepFunctions.AWSStepFunctionsException", "StepFunctions.ThrottlingException"]
    prefix = {"ecr": "Ecr", "sagemaker": "SageMaker"}[resource.split(":")[1]]
    return [f"{prefix}.ThrottlingException", f"{prefix}.ServerException", f"{prefix}.SdkClientException"]
