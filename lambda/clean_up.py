"""Ends what a run left that bills: jobs in flight, an endpoint that was not accepted, its model and config.

Called by `Explain failure`, and by an EventBridge rule for executions that were aborted or timed out (a state
machine that is stopped runs no further state).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

import aws
from heartbeat.execution import run_id

_GONE = ("Could not find", "Requested resource not found")


@dataclass
class Done:
    rolled_back: bool = False
    actions: list[str] = field(default_factory=list)


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """An EventBridge event `Step Functions Execution Status Change`."""
    return {"actions": clean(event["detail"]["executionArn"]).actions}


def clean(execution_arn: str, *, previous_config: str | None = None) -> Done:
    """Removes everything whose name begins with the run's id. Safe to call again.

    `previous_config` is the endpoint configuration to go back to where the run had updated a live endpoint.
    """
    stem, done = run_id(aws.environment(), execution_arn), Done()
    _stop_jobs(stem, done)
    for endpoint in _endpoints_of(stem):
        if previous_config:
            aws.client("sagemaker").update_endpoint(EndpointName=endpoint, EndpointConfigName=previous_config)
            done.rolled_back = True
            done.actions.append(f"endpoint {endpoint} goes back to {previous_config}")
        else:
            aws.client("sagemaker").delete_endpoint(EndpointName=endpoint)
            done.actions.append(f"endpoint {endpoint} deleted")
    if not done.rolled_back:
        # A configuration must outlive the update away from it; it costs nothing, and the next run removes it.
        _delete_names(stem, done)
    return done


def _stop_jobs(stem: str, done: Done) -> None:
    sagemaker = aws.client("sagemaker")
    pages = sagemaker.get_paginator("list_training_jobs").paginate(
        NameContains=stem, StatusEquals="InProgress"
    )
    for page in pages:
        for job in page["TrainingJobSummaries"]:
            sagemaker.stop_training_job(TrainingJobName=job["TrainingJobName"])
            done.actions.append(f"training job {job['TrainingJobName']} stopped")


def _endpoints_of(stem: str) -> list[str]:
    """Endpoints that serve, or try to serve, this run's configuration."""
    sagemaker, found = aws.client("sagemaker"), []
    for page in sagemaker.get_paginator("list_endpoints").paginate(NameContains="heartbeat"):
        for item in page["Endpoints"]:
            config = sagemaker.describe_endpoint(EndpointName=item["EndpointName"]).get("EndpointConfigName", "")
            if config.startswith(stem):
                found.append(item["EndpointName"])
    return found


def _delete_names(stem: str, done: Done) -> None:
    sagemaker = aws.client("sagemaker")
    for kind, list_operation, key, delete, name in (
        ("endpoint configuration", "list_endpoint_configs", "EndpointConfigs", "delete_endpoint_config", "EndpointConfigName"),
        ("model", "list_models", "Models", "delete_model", "ModelName"),
    ):
        for page in sagemaker.get_paginator(list_operation).paginate(NameContains=stem):
            for item in page[key]:
                try:
                    getattr(sagemaker, delete)(**{name: item[name]})
                except ClientError as error:
                    if not any(text in str(error) for text in _GONE):
                        raise
                done.actions.append(f"{kind} {item[name]} deleted")
