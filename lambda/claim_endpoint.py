"""State `Claim endpoint`: one run at a time changes an endpoint, and knows what served before."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import ClientError

import aws
import endpoint_records
import endpoints
from heartbeat.endpoint_record import EndpointRecord, gives_way

ABSENT = "Absent"
"""For the state machine, what SageMaker has no status for."""


class _HeldError(Exception):
    pass


def handler(event: aws.Event, _context: object) -> dict[str, Any]:
    """Whether this execution may change the endpoint now; if not, `busy` says why. Safe to call again."""
    name, config, execution = event["endpoint_name"], event["config"], event["execution"]["arn"]

    def claimed(record: EndpointRecord) -> EndpointRecord:
        if record.holder == execution:
            return record
        if record.holder and not _gives_way(record.holder):
            run = record.holder.rsplit(":", 1)[-1]
            raise _HeldError(f"run {run} is deploying to endpoint {name} (python -m heartbeat watch {run})")
        return record.claimed(execution, config)

    try:
        endpoint_records.change(name, claimed)
    except _HeldError as held:
        return {"claimed": False, "busy": str(held), "status": ""}
    found = endpoints.describe(name) or {"EndpointStatus": ABSENT}
    status = found["EndpointStatus"]
    if status in endpoints.IN_PROGRESS:  # a clean-up's way back, or a person's change: it ends by itself
        return {"claimed": False, "busy": f"endpoint {name} is {status}", "status": status}
    serving = found.get("EndpointConfigName")
    if status == "InService" and serving != config:
        endpoint_records.change(name, lambda record: replace(record, previous_config=serving))
    return {"claimed": True, "busy": "", "status": status}


def _gives_way(execution_arn: str) -> bool:
    try:
        found = aws.client("stepfunctions").describe_execution(executionArn=execution_arn)
    except ClientError as error:
        if error.response["Error"]["Code"] == "ExecutionDoesNotExist":  # Step Functions forgets after 90 days
            return True
        raise
    return gives_way(found["status"], found.get("stopDate"), datetime.now(UTC))
