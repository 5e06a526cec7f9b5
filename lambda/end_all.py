"""Custom resource: with the stack goes what its runs left and bills, or the stack stays and says what to do.

CloudFormation knows nothing of endpoints and jobs that runs made; deleted without them, the stack would leave them
billing with nobody to tell.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

from botocore.exceptions import ClientError

import aws
import components
import endpoints
import scaling

_logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 720
"""For jobs and endpoints together, of the function's 15 minutes: a job that is stopped still writes for two, and
SageMaker deletes no endpoint that it is making or changing."""
RESOURCE_ID = "what-runs-left"


def handler(event: dict[str, Any], _context: object) -> None:
    """A request of CloudFormation, answered at its ResponseURL; only a Delete does something."""
    try:
        if event["RequestType"] == "Delete":
            _end_all()
    except Exception as error:  # unanswered, CloudFormation would wait for an hour
        _logger.exception("not everything could be ended")
        command = f"python -m heartbeat destroy --environment {aws.environment()}"
        _answer(event, "FAILED", f"{error}. End it with `{command}`, which waits longer, then delete the stack again.")
    else:
        _answer(event, "SUCCESS", "")


def _end_all() -> None:
    _stop_runs()
    sagemaker, stem = aws.client("sagemaker"), f"hb-{aws.environment()}-"
    for name in _names("list_training_jobs", "TrainingJobName", NameContains=stem, StatusEquals="InProgress"):
        with _ended_by_itself():
            sagemaker.stop_training_job(TrainingJobName=name)
    deadline = time.monotonic() + PATIENCE_SECONDS
    if components.wanted():
        _end_components(deadline)
    for name in endpoints.names():
        _delete_endpoint(name, deadline)
    # A bucket that is written to while it is emptied cannot be deleted.
    while jobs := _names("list_training_jobs", "TrainingJobName", NameContains=stem, StatusEquals="Stopping"):
        if time.monotonic() > deadline:
            raise TimeoutError(f"training job {jobs[0]} is still stopping")
        time.sleep(endpoints.POLL_SECONDS)
    configs = _names("list_endpoint_configs", "EndpointConfigName", NameContains=stem)
    for name in dict.fromkeys([*configs, *_names("list_models", "ModelName", NameContains=stem)]):
        endpoints.delete_config(name)
    # A group that holds versions cannot be deleted, and with it the stack. A stack that retains its data keeps both.
    if os.environ["MODEL_PACKAGE_GROUP"]:
        group = os.environ["MODEL_PACKAGE_GROUP"]
        for arn in _names("list_model_packages", "ModelPackageArn", ModelPackageGroupName=group):
            sagemaker.delete_model_package(ModelPackageName=arn)


def _stop_runs() -> None:
    """First: they would make new jobs and endpoints."""
    client = aws.client("stepfunctions")
    for machine in os.environ["STATE_MACHINE_ARNS"].split(","):
        pages = client.get_paginator("list_executions").paginate(stateMachineArn=machine, statusFilter="RUNNING")
        for page in pages:
            for item in page["executions"]:
                client.stop_execution(executionArn=item["executionArn"], cause="the stack is deleted")


def _names(operation: str, member: str, **chosen: str) -> list[str]:
    """All that a list operation of SageMaker shows, read before any is deleted."""
    found = []
    for page in aws.client("sagemaker").get_paginator(operation).paginate(**chosen):
        (items,) = (value for value in page.values() if isinstance(value, list))
        found += [item[member] for item in items]
    return found


def _end_components(deadline: float) -> None:
    """Before their endpoints, and their scaling before them: a call must wake none."""
    found = components.names()
    for name in dict.fromkeys([endpoints.stem(), *found, *scaling.scaled_components()]):
        scaling.remove(name)
    for name in found:
        with _ended_by_itself():
            components.end(name, deadline)


def _delete_endpoint(name: str, deadline: float) -> None:
    found = endpoints.settled(name, deadline)
    if found and found["EndpointStatus"] in endpoints.IN_PROGRESS:
        raise TimeoutError(f"endpoint {name} is still {found['EndpointStatus']}, and bills")
    scaling.remove(name)
    if found:
        with _ended_by_itself():
            aws.client("sagemaker").delete_endpoint(EndpointName=name)


@contextlib.contextmanager
def _ended_by_itself() -> Iterator[None]:
    """Between the look and the call, or through the clean-up of a run that was stopped here."""
    try:
        yield
    except ClientError as error:
        if not endpoints.is_gone(error) and "training job is in status" not in str(error):
            raise


def _answer(event: dict[str, Any], status: str, reason: str) -> None:
    answer = {
        "Status": status,
        "Reason": reason,
        "PhysicalResourceId": event.get("PhysicalResourceId", RESOURCE_ID),
        **{name: event[name] for name in ("StackId", "RequestId", "LogicalResourceId")},
    }
    # No content type: the URL is signed for one that is empty.
    request = urllib.request.Request(
        event["ResponseURL"], data=json.dumps(answer).encode(), method="PUT", headers={"Content-Type": ""}
    )
    with urllib.request.urlopen(request, timeout=30):
        pass
