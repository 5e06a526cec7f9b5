"""Ends what a run left that bills: jobs in flight, an endpoint that was not accepted, its model and config.

Called by `Explain failure`, and by a state machine that an EventBridge rule starts for executions that were aborted or
timed out (a state machine that is stopped runs no further state).
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from typing import Any

import aws
import components
import endpoint_records
import endpoints
import go_back
from heartbeat.endpoint_record import EndpointRecord
from heartbeat.execution import run_id

PATIENCE_SECONDS = 780
"""How long to wait for an endpoint that SageMaker neither deletes nor changes yet; the function's limit is 15 minutes.
After that the call raises StillChanging, on which both state machines call it again, longer than an update may take."""
SECOND_LOOK_SECONDS = 10
"""An abort may overtake a call that its state had just sent: what that call makes appears after the first look.
Step Functions promises only its best effort to stop such a job, and this one may bill for hours."""


@dataclass
class Done:
    rolled_back: bool = False
    """The endpoint is on its way back to the configuration that served before the run."""
    actions: list[str] = field(default_factory=list)


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """An EventBridge event `Step Functions Execution Status Change` of an aborted or timed-out execution."""
    detail = event["detail"]
    given = json.loads(detail.get("input") or "{}")
    named = given.get("endpoint_name") if isinstance(given, dict) else None
    endpoint = named if isinstance(named, str) else os.environ["ENDPOINT_NAME"]
    first = _clean(detail["executionArn"], endpoint)
    time.sleep(SECOND_LOOK_SECONDS)
    second = Done() if first.rolled_back else _clean(detail["executionArn"], endpoint)
    _let_go(detail["executionArn"], endpoint)
    return {"actions": [*first.actions, *second.actions]}


def clean(execution_arn: str, *, endpoint_name: str) -> Done:
    """Ends everything whose name begins with the run's id, and lets go of the endpoint. Safe to call again.

    The endpoint is touched only where the run holds it: it goes back to what served before the run, or is deleted
    where nothing did.
    """
    done = _clean(execution_arn, endpoint_name)
    _let_go(execution_arn, endpoint_name)
    return done


def _clean(execution_arn: str, name: str) -> Done:
    stem, done = run_id(aws.environment(), execution_arn), Done()
    _stop_jobs(stem, done)
    record = endpoint_records.read(name)
    if record.holder != execution_arn:  # the run never changed the endpoint, or it was accepted
        _delete_names(stem, done, record)
        return done
    deadline = time.monotonic() + PATIENCE_SECONDS
    endpoint = _settled(name, deadline)
    if components.wanted():
        if endpoint is not None:
            actions, done.rolled_back = go_back.go_back(endpoint, stem=stem, record=record, deadline=deadline)
            done.actions += actions
        _delete_names(stem, done, record)
    elif endpoint is None or not _is_changed(endpoint, stem, record):
        _delete_names(stem, done, record)
    elif record.previous_config is None:
        aws.client("sagemaker").delete_endpoint(EndpointName=name)
        done.actions.append(f"endpoint {name} deleted")
        _delete_names(stem, done, record)
    else:
        # At once, and without alarms: what it goes back to was accepted, what it leaves was not. The run's model and
        # configuration must outlive their use; the next run that is accepted deletes them.
        aws.client("sagemaker").update_endpoint(EndpointName=name, EndpointConfigName=record.previous_config)
        done.rolled_back = True
        done.actions.append(f"endpoint {name} goes back to {record.previous_config}")
    return done


def _is_changed(endpoint: dict[str, Any], stem: str, record: EndpointRecord) -> bool:
    """Whether a settled endpoint serves this run's configuration, or a mix of it and the one before."""
    mixed = endpoint["EndpointStatus"] == "UpdateRollbackFailed" and record.previous_config is not None
    return mixed or str(endpoint.get("EndpointConfigName", "")).startswith(stem)


def _let_go(execution_arn: str, name: str) -> None:
    stem = run_id(aws.environment(), execution_arn)

    def released(record: EndpointRecord) -> EndpointRecord:
        if record.holder != execution_arn:
            return record
        return record.released(deleted=None if _names(stem) else stem)

    endpoint_records.change(name, released)


def _stop_jobs(stem: str, done: Done) -> None:
    sagemaker = aws.client("sagemaker")
    pages = sagemaker.get_paginator("list_training_jobs").paginate(NameContains=stem, StatusEquals="InProgress")
    for page in pages:
        for job in page["TrainingJobSummaries"]:
            sagemaker.stop_training_job(TrainingJobName=job["TrainingJobName"])
            done.actions.append(f"training job {job['TrainingJobName']} stopped")


def _settled(name: str, deadline: float) -> dict[str, Any] | None:
    """The endpoint once SageMaker is done with it: until then it may be neither changed nor deleted, and nor may the
    configuration that it is on its way to, although it still names the one before."""
    found = endpoints.settled(name, deadline)
    if found and found["EndpointStatus"] in endpoints.IN_PROGRESS:
        raise endpoints.StillChanging(f"endpoint {name} is still {found['EndpointStatus']}")
    return found


def _delete_names(stem: str, done: Done, record: EndpointRecord) -> None:
    """Deletes the run's models and configurations, but not what an endpoint serves, or will when it is switched on
    again: a run may end after its model was accepted."""
    configs, models = components.in_use()
    for name in _names(stem):
        done.actions += endpoints.delete_config(
            name, configs={*configs, record.asleep}, models={*models, record.asleep}
        )


def _names(stem: str) -> list[str]:
    """Of the run's models and configurations, each once: a configuration has its model's name."""
    sagemaker = aws.client("sagemaker")
    found = [
        item[member]
        for operation, key, member in (
            ("list_endpoint_configs", "EndpointConfigs", "EndpointConfigName"),
            ("list_models", "Models", "ModelName"),
        )
        for page in sagemaker.get_paginator(operation).paginate(NameContains=stem)
        for item in page[key]
    ]
    return list(dict.fromkeys(found))
