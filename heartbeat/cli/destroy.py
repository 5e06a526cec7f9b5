"""`destroy`: ends what an environment's runs left, so that `cdk destroy` finds nothing in its way."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from botocore.exceptions import ClientError

from heartbeat import layout, requests
from heartbeat.cli import executions, screen
from heartbeat.cli.account import App, client, connect, pause_seconds, where
from heartbeat.cli.errors import Failed, UserError
from heartbeat.cli.status import components, endpoints, is_of, training_jobs

_GONE = ("Could not find", "does not exist", "not found", "No scalable target", "training job is in status")
"""Of what ended by itself between the look and the call."""
_STOP_SECONDS = 300
_ENDPOINT_SECONDS = 3600
_BUSY = frozenset({"Creating", "Updating", "SystemUpdating", "RollingBack"})

RUN = "run"


@dataclass(frozen=True)
class Action:
    """One thing to end: what it is, and the call that ends it."""

    what: str
    name: str
    end: Callable[[], object]


def run(arguments: argparse.Namespace) -> int:
    app = connect(arguments.environment)
    found = list(actions(app))
    if not found:
        screen.say(f"Nothing of environment {app.environment} is left to end.")
        return 0
    screen.say(f"Of environment {app.environment} in {where(client('sagemaker'))}:")
    for action in found:
        screen.say(f"  {action.what:<24} {action.name}")
    screen.say("Datasets, base model, adapters and reports stay in their buckets.")
    if not arguments.yes:
        _ask()
    end(app)
    return 0


def end(app: App) -> None:
    """Ends everything, and says what. Runs first: they would make new jobs and endpoints."""
    _end_all([action for action in actions(app) if action.what == RUN])
    _wait_for_runs(app)
    # Looked at again: a run may have made something in its last moment.
    failed = _end_all(list(actions(app)))
    if failed:
        raise Failed(f"{screen.count(failed, 'thing')} could not be ended; the lines above say why. Run it again.")


def actions(app: App) -> Iterator[Action]:
    """What there is to end, in the order in which it must be."""
    sagemaker, stepfunctions = client("sagemaker"), client("stepfunctions")
    for item in executions.recent(app, 1000, "RUNNING"):
        arn = item["executionArn"]
        yield Action(RUN, item["name"], partial(stepfunctions.stop_execution, executionArn=arn))
    for job in training_jobs(app.environment):
        yield Action("training job", job.name, partial(sagemaker.stop_training_job, TrainingJobName=job.name))
    s3, bucket = client("s3"), app.artifact_bucket
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=layout.ENDPOINTS):
        for item in page.get("Contents", []):  # first: a schedule makes endpoints again of what they name
            key = item["Key"]
            yield Action("record of an endpoint", key, partial(s3.delete_object, Bucket=bucket, Key=key))
    yield from _scaling(app.environment)
    for name in components(app.environment):  # before their endpoints, which cannot be deleted while they are there
        yield Action("inference component", name, partial(_delete_component, name))
    for endpoint in endpoints(app.environment):
        yield Action("endpoint", endpoint.name, partial(_delete_endpoint, endpoint.name))
    stem = f"hb-{app.environment}-"
    for name in _names("list_endpoint_configs", "EndpointConfigs", "EndpointConfigName", NameContains=stem):
        yield Action("endpoint configuration", name, partial(sagemaker.delete_endpoint_config, EndpointConfigName=name))
    for name in _names("list_models", "Models", "ModelName", NameContains=stem):
        yield Action("model", name, partial(sagemaker.delete_model, ModelName=name))
    # A group that holds versions cannot be deleted, and with it the stack.
    group = f"heartbeat-{app.environment}"
    for arn in _names("list_model_packages", "ModelPackageSummaryList", "ModelPackageArn", ModelPackageGroupName=group):
        name = arn.split("/", 1)[-1]
        yield Action("registered model", name, partial(sagemaker.delete_model_package, ModelPackageName=arn))


def _scaling(environment: str) -> Iterator[Action]:
    """Of endpoints, those too that were deleted by hand: their alarms bill on."""
    scaling, cloudwatch = client("application-autoscaling"), client("cloudwatch")
    scaled = {"endpoint": requests.scaled_variant, "inference-component": requests.scaled_component}
    for page in scaling.get_paginator("describe_scalable_targets").paginate(ServiceNamespace="sagemaker"):
        for target in page["ScalableTargets"]:
            kind, name = target["ResourceId"].split("/")[:2]
            if kind in scaled and is_of(name, environment):
                yield Action(
                    "scaling of an endpoint", name, partial(scaling.deregister_scalable_target, **scaled[kind](name))
                )
    stem = requests.wake_alarm_name(environment=environment, endpoint="")
    for page in cloudwatch.get_paginator("describe_alarms").paginate(AlarmNamePrefix=stem):
        for alarm in page["MetricAlarms"]:
            name = alarm["AlarmName"]
            yield Action("alarm that wakes", name, partial(cloudwatch.delete_alarms, AlarmNames=[name]))


def _delete_component(name: str) -> None:
    """Deletes an inference component and waits until it is gone: its endpoint can be deleted only then."""
    sagemaker = client("sagemaker")

    def status() -> str:
        return str(sagemaker.describe_inference_component(InferenceComponentName=name)["InferenceComponentStatus"])

    _wait_while(_BUSY, "inference component", name, status)
    sagemaker.delete_inference_component(InferenceComponentName=name)
    try:
        _wait_while(frozenset({"Deleting"}), "inference component", name, status)
    except ClientError as error:
        if not _is_gone(error):
            raise


def _delete_endpoint(name: str) -> None:
    sagemaker = client("sagemaker")

    def status() -> str:
        return str(sagemaker.describe_endpoint(EndpointName=name)["EndpointStatus"])

    if _wait_while(_BUSY, "endpoint", name, status) != "Deleting":
        sagemaker.delete_endpoint(EndpointName=name)


def _wait_while(busy: frozenset[str], what: str, name: str, status: Callable[[], str]) -> str:
    """Waits until SageMaker is done, which deletes nothing that it is making or changing; returns the status then."""
    deadline, told = time.monotonic() + _ENDPOINT_SECONDS, False
    while (found := status()) in busy:
        if time.monotonic() > deadline:
            raise Failed(f"{what} {name} is still {found} after {screen.duration(_ENDPOINT_SECONDS)}; it bills")
        if not told:
            screen.say(f"  … {what} {name} is {found}: that is waited for")
        told = True
        time.sleep(pause_seconds())
    return found


def _names(operation: str, items: str, name: str, **chosen: str) -> list[str]:
    pages = client("sagemaker").get_paginator(operation).paginate(**chosen)
    try:
        return [item[name] for page in pages for item in page[items]]
    except ClientError as error:
        if _is_gone(error):
            return []
        raise


def _end_all(found: list[Action]) -> int:
    """Ends them one by one; returns how many could not be."""
    failed = 0
    for action in found:
        try:
            action.end()
        except ClientError as error:
            if not _is_gone(error):
                failed += 1
                screen.say(f"  {screen.BROKEN} {action.what} {action.name}: {error}")
            continue
        screen.say(f"  {screen.DONE} {action.what} {action.name} ended")
    return failed


def _wait_for_runs(app: App) -> None:
    deadline = time.monotonic() + _STOP_SECONDS
    while executions.recent(app, 1, "RUNNING"):
        if time.monotonic() > deadline:
            raise Failed(f"runs of {app.environment} still go on {_STOP_SECONDS} s after they were stopped")
        time.sleep(1)


def _is_gone(error: ClientError) -> bool:
    return any(text in str(error) for text in _GONE)


def _ask() -> None:
    if not sys.stdin.isatty():
        raise UserError("this needs a yes, and there is no terminal to ask; add --yes")
    if input("End all of it? [y/N] ").strip().lower() not in {"y", "yes"}:
        raise UserError("nothing was ended")
