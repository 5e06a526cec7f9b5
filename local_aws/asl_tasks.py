"""Task integrations that moto's interpreter lacks or leaves half done: SageMaker, CodeBuild, Lambda, aws-sdk."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import botocore.session
from botocore.exceptions import ClientError
from moto.stepfunctions.parser.api import HistoryEventType, TaskFailedEventDetails
from moto.stepfunctions.parser.asl.component.common.error_name.error_name import ErrorName
from moto.stepfunctions.parser.asl.component.common.error_name.failure_event import (
    FailureEvent,
    FailureEventException,
)
from moto.stepfunctions.parser.asl.component.common.error_name.states_error_name import StatesErrorName
from moto.stepfunctions.parser.asl.component.common.error_name.states_error_name_type import (
    StatesErrorNameType,
)
from moto.stepfunctions.parser.asl.component.state.exec.state_task import (
    lambda_eval_utils,
    state_task_factory,
)
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service import (
    state_task_service_aws_sdk,
    state_task_service_factory,
)
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.resource import ResourceCondition
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_aws_sdk import (
    StateTaskServiceAwsSdk,
)
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_callback import (
    StateTaskServiceCallback,
)
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_lambda import (
    StateTaskServiceLambda,
)
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_sfn import (
    StateTaskServiceSfn,
)
from moto.stepfunctions.parser.asl.eval.event.event_detail import EventDetails

from local_aws.asl_engine import epoch_dates, iso_dates, role_client
from local_aws.errors import ApiError

POLL_SECONDS, LONGEST_POLL_SECONDS = 0.2, 1.0
"""How often a .sync task looks at its job (AWS is told by an event). A look takes processor time of the job's: one that
runs for minutes is looked at less often than one of seconds."""
PATIENCE = 20.0
"""Between two looks passes the time that the job has run, over this."""

Authorise = Callable[[str, str, str], None]
"""(role ARN, action, resource) -> nothing, or ApiError."""


@dataclass(frozen=True, kw_only=True)
class SyncJob:
    """How a `.sync` task follows the job that it has started."""

    describe: Callable[[Any, dict[str, Any]], dict[str, Any]]
    """(client, what the start call answered) -> description of the job."""
    status: str
    good: frozenset[str]
    bad: frozenset[str]
    stop: Callable[[Any, dict[str, Any]], Any]
    rule: str
    """The managed EventBridge rule that AWS makes for it, for which the role needs permissions."""


def _training_name(started: dict[str, Any]) -> str:
    return str(started["TrainingJobArn"].rsplit("/", 1)[-1])


def _describe_build(client: Any, started: dict[str, Any]) -> dict[str, Any]:
    build: dict[str, Any] = client.batch_get_builds(ids=[started["build"]["id"]])["builds"][0]
    return build


TRAINING = SyncJob(
    describe=lambda client, started: client.describe_training_job(TrainingJobName=_training_name(started)),
    status="TrainingJobStatus",
    good=frozenset({"Completed"}),
    bad=frozenset({"Failed", "Stopped"}),
    stop=lambda client, started: client.stop_training_job(TrainingJobName=_training_name(started)),
    rule="StepFunctionsGetEventsForSageMakerTrainingJobsRule",
)
BUILD = SyncJob(
    describe=_describe_build,
    status="buildStatus",
    good=frozenset({"SUCCEEDED"}),
    bad=frozenset({"FAILED", "FAULT", "STOPPED", "TIMED_OUT"}),
    stop=lambda client, started: client.stop_build(id=started["build"]["id"]),
    rule="StepFunctionsGetEventForCodeBuildStartBuildRule",
)
SYNC_JOBS = {"sagemaker:createtrainingjob": TRAINING, "codebuild:startbuild": BUILD}
EXECUTION_RULE = "StepFunctionsGetEventsForStepFunctionsExecutionRule"
MANAGED_RULES = {**{call: job.rule for call, job in SYNC_JOBS.items()}, "states:startexecution": EXECUTION_RULE}
"""By the call of a `.sync` task"""
MANAGED_RULE_ACTIONS = ("events:PutTargets", "events:PutRule", "events:DescribeRule")

_OPTIMISED = {
    "sagemaker": {"createtrainingjob", "createmodel", "createendpointconfig", "createendpoint", "updateendpoint"},
    "codebuild": {"startbuild", "stopbuild", "batchgetbuilds"},
}
_MODELLED_AS_PLAIN = {"ValidationException", "AccessDeniedException", "ThrottlingException", "AccessDenied"}
"""Codes that the SDK's model of SageMaker does not have, so that they surface as the service's general error."""


class _OptimisedTask(StateTaskServiceCallback):  # type: ignore[misc]
    """An optimised integration that calls one API and, with `.sync`, waits for the job."""

    service: str
    error_prefix: str
    general_error: str
    cause_service: str
    authorise: Authorise
    rule_arn: Callable[[str], str]

    def __init__(self) -> None:
        super().__init__(supported_integration_patterns={ResourceCondition.Sync})
        self._local = threading.local()  # the iterations of a Map share this object, each in its thread

    def _get_supported_parameters(self) -> set[str] | None:
        """An empty set passes every parameter; None is an unknown action."""
        action = self.resource.api_action.lower()
        if self.resource.condition and f"{self.service}:{action}" not in SYNC_JOBS:
            return None
        return set() if action in _OPTIMISED[self.service] else None

    def _fail(self, env: Any, error: str, cause: str, name: Any = None) -> FailureEvent:
        details = TaskFailedEventDetails(
            resource=self._get_sfn_resource(),
            resourceType=self._get_sfn_resource_type(),
            error=error,
            cause=cause,
        )
        return FailureEvent(
            env=env,
            error_name=name or ErrorName(error),
            event_type=HistoryEventType.TaskFailed,
            event_details=EventDetails(taskFailedEventDetails=details),
        )

    def _from_error(self, env: Any, ex: Exception) -> Any:
        if isinstance(ex, ApiError):
            return self._fail(env, f"{self.error_prefix}.{self.general_error}", ex.message)
        if not isinstance(ex, ClientError):
            return super()._from_error(env=env, ex=ex)
        code, meta = ex.response["Error"]["Code"], ex.response["ResponseMetadata"]
        named = code if code.endswith("Exception") else f"{code}Exception"
        error = f"{self.error_prefix}.{self.general_error if code in _MODELLED_AS_PLAIN else named}"
        cause = (
            f"{ex.response['Error']['Message']} (Service: {self.cause_service}; Status Code: "
            f"{meta['HTTPStatusCode']}; Error Code: {code}; Request ID: {meta.get('RequestId')}; Proxy: null)"
        )
        return self._fail(env, error, cause)

    def _prepare(self, parameters: dict[str, Any]) -> None:
        """What a `.sync` call adds to the request."""

    def _eval_service_task(
        self, env: Any, resource_runtime_part: Any, normalised_parameters: dict[str, Any], state_credentials: Any
    ) -> None:
        if self.resource.condition == ResourceCondition.Sync:
            job = SYNC_JOBS[f"{self.service}:{self.resource.api_action.lower()}"]
            for action in MANAGED_RULE_ACTIONS:
                type(self).authorise(state_credentials.role_arn, action, type(self).rule_arn(job.rule))
            self._prepare(normalised_parameters)
        client = role_client(resource_runtime_part.region, self.service, state_credentials)
        response = getattr(client, self._get_boto_service_action())(**normalised_parameters)
        meta = response.pop("ResponseMetadata", {})
        response["SdkHttpMetadata"] = {"HttpStatusCode": meta.get("HTTPStatusCode")}
        response["SdkResponseMetadata"] = {"RequestId": meta.get("RequestId")}
        self._local.started = response
        env.stack.append(epoch_dates(response))

    def _eval_integration_pattern(
        self, env: Any, resource_runtime_part: Any, normalised_parameters: dict[str, Any], state_credentials: Any
    ) -> None:
        del normalised_parameters
        env.stack.pop()  # the answer as Step Functions writes it; the job's own describe call takes the SDK's names
        started = self._local.started
        client = role_client(resource_runtime_part.region, self.service, state_credentials)
        job = SYNC_JOBS[f"{self.service}:{self.resource.api_action.lower()}"]
        self._after_start(client, started)
        begun = time.monotonic()
        while env.is_running():
            description = job.describe(client, started)
            description.pop("ResponseMetadata", None)
            status = description[job.status]
            if status in job.good:
                env.stack.append(self._result(epoch_dates(description)))
                return
            if status in job.bad:
                cause = json.dumps(self._result(epoch_dates(description)), separators=(",", ":"))
                name = StatesErrorNameType.StatesTaskFailed
                raise FailureEventException(self._fail(env, name.to_name(), cause, StatesErrorName(typ=name)))
            ran = time.monotonic() - begun
            time.sleep(min(max(POLL_SECONDS, ran / PATIENCE), LONGEST_POLL_SECONDS))
        job.stop(client, started)  # the execution was stopped or the state timed out
        raise RuntimeError("the execution no longer runs")

    def _after_start(self, client: Any, started: dict[str, Any]) -> None:
        """What a `.sync` task reads once."""

    def _result(self, description: dict[str, Any]) -> dict[str, Any]:
        return description


class SageMakerTask(_OptimisedTask):
    service = "sagemaker"
    error_prefix = "SageMaker"
    general_error = "AmazonSageMakerException"
    cause_service = "AmazonSageMaker"

    def _prepare(self, parameters: dict[str, Any]) -> None:
        marker = {"Key": "MANAGED_BY_AWS", "Value": "STARTED_BY_STEP_FUNCTIONS"}
        parameters["Tags"] = [*parameters.get("Tags", []), marker]

    def _after_start(self, client: Any, started: dict[str, Any]) -> None:
        client.list_tags(ResourceArn=started["TrainingJobArn"])


class CodeBuildTask(_OptimisedTask):
    service = "codebuild"
    error_prefix = "CodeBuild"
    general_error = "AWSCodeBuildException"
    cause_service = "AWSCodeBuild"

    def _result(self, description: dict[str, Any]) -> dict[str, Any]:
        return {"Build": _pascal(description)}


def _pascal(value: Any) -> Any:
    if isinstance(value, dict):
        return {key[:1].upper() + key[1:]: _pascal(member) for key, member in value.items()}
    return [_pascal(member) for member in value] if isinstance(value, list) else value


class StatesTask(StateTaskServiceSfn):  # type: ignore[misc]
    """A nested execution. moto follows it; what it lacks are the managed rule and the end of what is aborted."""

    authorise: Authorise
    rule_arn: Callable[[str], str]

    def _eval_service_task(
        self, env: Any, resource_runtime_part: Any, normalised_parameters: dict[str, Any], state_credentials: Any
    ) -> None:
        if self.resource.condition in (ResourceCondition.Sync, ResourceCondition.Sync2):
            for action in MANAGED_RULE_ACTIONS:
                type(self).authorise(state_credentials.role_arn, action, type(self).rule_arn(EXECUTION_RULE))
        super()._eval_service_task(env, resource_runtime_part, normalised_parameters, state_credentials)

    def _eval_integration_pattern(
        self, env: Any, resource_runtime_part: Any, normalised_parameters: dict[str, Any], state_credentials: Any
    ) -> None:
        arn = env.stack[-1]["ExecutionArn"]
        try:
            super()._eval_integration_pattern(env, resource_runtime_part, normalised_parameters, state_credentials)
        finally:
            if not env.is_running():  # the execution was stopped or the state timed out
                role_client(resource_runtime_part.region, "stepfunctions", state_credentials).stop_execution(
                    executionArn=arn
                )


class LambdaTask(StateTaskServiceLambda):  # type: ignore[misc]
    def _from_error(self, env: Any, ex: Exception) -> Any:
        failure = super()._from_error(env=env, ex=ex)
        details = failure.event_details.get("taskFailedEventDetails", {})
        if isinstance(ex, lambda_eval_utils.LambdaFunctionErrorException) and not _has_error_type(ex.payload):
            details["error"] = "Lambda.Unknown"
        elif isinstance(ex, ClientError) and ex.response["Error"]["Code"] == "AccessDeniedException":
            details["error"] = "Lambda.AWSLambdaException"
        else:
            return failure
        failure.error_name = ErrorName(details["error"])
        return failure


def _has_error_type(payload: str) -> bool:
    try:
        return "errorType" in json.loads(payload)
    except (ValueError, TypeError):
        return False


_SERVICE_ERROR_NAMES = {
    "cloudwatch": "CloudWatch",
    "cloudwatchlogs": "CloudWatchLogs",
    "codebuild": "CodeBuild",
    "ecr": "Ecr",
    "eventbridge": "EventBridge",
    "lambda": "Lambda",
    "s3": "S3",
    "sagemaker": "SageMaker",
    "sagemakerruntime": "SageMakerRuntime",
    "sns": "Sns",
    "sqs": "Sqs",
    "ssm": "Ssm",
    "sts": "Sts",
}
_BOTO_NAMES = {
    "cloudwatchlogs": "logs",
    "eventbridge": "events",
    "sagemakerruntime": "sagemaker-runtime",
    "sfn": "stepfunctions",
}
_HEAD_ERRORS = {"headobject": "S3.NoSuchKeyException", "headbucket": "S3.NoSuchBucketException"}
"""A HEAD answer has no body, so the SDK for Java names the error by the operation."""


class AwsSdkTask(StateTaskServiceAwsSdk):  # type: ignore[misc]
    def _get_boto_service_name(self, boto_service_name: str | None = None) -> str:
        name = boto_service_name or self.resource.api_name
        return _BOTO_NAMES.get(name) or str(super()._get_boto_service_name(boto_service_name))

    def _normalise_parameters(self, parameters: dict[str, Any], *names: Any, **keywords: Any) -> None:
        super()._normalise_parameters(parameters, *names, **keywords)
        model = botocore.session.get_session().get_service_model(self._get_boto_service_name())
        action = self.resource.api_action.lower()
        operation = next(name for name in model.operation_names if name.lower() == action)
        shape = model.operation_model(operation).input_shape
        known = set(shape.members) if shape else set()
        if unknown := sorted(set(parameters) - known):
            raise ValueError(f"The field {', '.join(unknown)} is not supported by Step Functions in {operation}")

    def _normalise_response(self, response: Any, *names: Any, **keywords: Any) -> None:
        super()._normalise_response(response, *names, **keywords)
        if isinstance(response, dict):
            response.update(iso_dates(response))

    def _from_error(self, env: Any, ex: Exception) -> Any:
        failure = super()._from_error(env=env, ex=ex)
        action = self.resource.api_action.lower()
        if isinstance(ex, ClientError) and ex.response["Error"]["Code"] == "404" and action in _HEAD_ERRORS:
            failure.event_details["taskFailedEventDetails"]["error"] = _HEAD_ERRORS[action]
            failure.error_name = ErrorName(_HEAD_ERRORS[action])
        return failure


def install(authorise: Authorise, rule_arn: Callable[[str], str]) -> None:
    """Put the integrations behind moto's factory."""
    _OptimisedTask.authorise = staticmethod(authorise)
    _OptimisedTask.rule_arn = staticmethod(rule_arn)
    state_task_service_aws_sdk._SERVICE_ERROR_NAMES.update(_SERVICE_ERROR_NAMES)
    StatesTask.authorise = staticmethod(authorise)
    StatesTask.rule_arn = staticmethod(rule_arn)
    ours = {
        "sagemaker": SageMakerTask,
        "codebuild": CodeBuildTask,
        "states": StatesTask,
        "lambda": LambdaTask,
        "aws-sdk": AwsSdkTask,
    }
    known = state_task_service_factory.state_task_service_for

    def task_for(service_name: str) -> Any:
        return ours[service_name]() if service_name in ours else known(service_name)

    state_task_service_factory.state_task_service_for = task_for
    state_task_factory.state_task_service_for = task_for
