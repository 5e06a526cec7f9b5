"""State `Claim endpoint`: one run at a time changes an endpoint, and knows what served before."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import aws
import endpoint_records
import endpoints

ABSENT = "Absent"
"""For the state machine, what SageMaker has no status for."""


def handler(event: aws.Event, _context: object) -> dict[str, Any]:
    """Whether this execution may change the endpoint now; if not, `busy` says why. Safe to call again."""
    name, config, execution = event["endpoint_name"], event["config"], event["execution"]["arn"]

    try:
        endpoint_records.claim(name, execution, lambda record: record.claimed(execution, config))
    except endpoint_records.HeldError as held:
        return {"claimed": False, "busy": str(held), "status": ""}
    found = endpoints.describe(name) or {"EndpointStatus": ABSENT}
    status = found["EndpointStatus"]
    if status in endpoints.IN_PROGRESS:  # a clean-up's way back, or a person's change: it ends by itself
        return {"claimed": False, "busy": f"endpoint {name} is {status}", "status": status}
    serving = found.get("EndpointConfigName")
    if status == "InService" and serving != config:
        endpoint_records.change(name, lambda record: replace(record, previous_config=serving))
    return {"claimed": True, "busy": "", "status": status}
