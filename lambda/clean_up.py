"""Ends what a run left that bills: jobs in flight, an endpoint that was not accepted, its model and config.

Called by `Explain failure`, and by an EventBridge rule for executions that were aborted or timed out (a state
machine that is stopped runs no further state).
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import ClientError

import aws
from heartbeat.execution import run_id

IN_PROGRESS = frozenset({"Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting"})
PATIENCE_SECONDS = 780
"""How long to wait for an endpoint that SageMaker refuses to delete yet; the function's limit is 15 minutes. After
that the call fails, and Lambda calls it again: three times in all, longer than SageMaker lets a start take."""
POLL_SECONDS = 5
SECOND_LOOK_SECONDS = 10
"""An abort may overtake a call that its state had just sent: what that call makes appears after the first look.
Step Functions promises only its best effort to stop such a job, and this one may bill for hours."""

# SageMaker has no error code of its own for a thing that is not there.
_GONE = ("Could not find", "Requested resource not found")


@dataclass
class Done:
    rolled_back: bool = False
    actions: list[str] = field(default_factory=list)


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """An EventBridge event `Step Functions Execution Status Change` of an aborted or timed-out execution."""
    detail = event["detail"]
    given = json.loads(detail.get("input") or "{}")
    endpoint = given.get("endpoint_name") if isinstance(given, dict) else None
    started = datetime.fromtimestamp(detail["startDate"] / 1000, tz=UTC)
    first = clean(detail["executionArn"], endpoint_name=endpoint, started=started)
    time.sleep(SECOND_LOOK_SECONDS)
    second = clean(detail["executionArn"], endpoint_name=endpoint, started=started)
    return {"actions": [*first.actions, *second.actions]}


def clean(
    execution_arn: str,
    *,
    endpoint_name: str | None,
    previous_config: str | None = None,
    started: datetime | None = None,
) -> Done:
    """Removes everything whose name begins with the run's id. Safe to call again.

    `endpoint_name` None is the app's default. `previous_config` is the endpoint configuration to go back to
    where the run had updated a live endpoint. An endpoint older than `started` is never deleted: it had users
    before this run, and an aborted execution no longer knows what it served.
    """
    stem, done = run_id(aws.environment(), execution_arn), Done()
    name = endpoint_name or os.environ["ENDPOINT_NAME"]
    _stop_jobs(stem, done)
    endpoint = _settled(name, stem)
    if endpoint and previous_config:
        aws.client("sagemaker").update_endpoint(EndpointName=name, EndpointConfigName=previous_config)
        done.rolled_back = True
        done.actions.append(f"endpoint {name} goes back to {previous_config}")
    elif endpoint and started and endpoint["CreationTime"] < started:
        done.actions.append(f"endpoint {name} was there before the run and stays, with the run's model")
    else:
        if endpoint:
            aws.client("sagemaker").delete_endpoint(EndpointName=name)
            done.actions.append(f"endpoint {name} deleted")
        _delete_names(stem, done)
    # Otherwise model and configuration stay: they must outlive the endpoint's use of them, and cost nothing.
    return done


def _stop_jobs(stem: str, done: Done) -> None:
    sagemaker = aws.client("sagemaker")
    pages = sagemaker.get_paginator("list_training_jobs").paginate(NameContains=stem, StatusEquals="InProgress")
    for page in pages:
        for job in page["TrainingJobSummaries"]:
            sagemaker.stop_training_job(TrainingJobName=job["TrainingJobName"])
            done.actions.append(f"training job {job['TrainingJobName']} stopped")


def _settled(name: str, stem: str) -> dict[str, Any] | None:
    """The endpoint, if it is this run's, once SageMaker is done with it: until then it refuses to delete it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (found := _endpoint_of(name, stem)) and found["EndpointStatus"] in IN_PROGRESS:
        if time.monotonic() > deadline:
            raise TimeoutError(f"endpoint {name} is still {found['EndpointStatus']}")
        time.sleep(POLL_SECONDS)
    return found


def _endpoint_of(name: str, stem: str) -> dict[str, Any] | None:
    """The endpoint, where it serves, or tries to serve, this run's configuration."""
    try:
        found: dict[str, Any] = aws.client("sagemaker").describe_endpoint(EndpointName=name)
    except ClientError as error:
        if any(text in str(error) for text in _GONE):
            return None
        raise
    return found if str(found.get("EndpointConfigName", "")).startswith(stem) else None


_KINDS = (
    (
        "endpoint configuration",
        "list_endpoint_configs",
        "EndpointConfigs",
        "delete_endpoint_config",
        "EndpointConfigName",
    ),
    ("model", "list_models", "Models", "delete_model", "ModelName"),
)


def _delete_names(stem: str, done: Done) -> None:
    sagemaker = aws.client("sagemaker")
    for kind, list_operation, key, delete, name in _KINDS:
        for page in sagemaker.get_paginator(list_operation).paginate(NameContains=stem):
            for item in page[key]:
                getattr(sagemaker, delete)(**{name: item[name]})
                done.actions.append(f"{kind} {item[name]} deleted")
