"""State `Claim endpoint`: one run at a time changes an endpoint, and knows what served before."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import aws
import components
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
    serving = found.get("EndpointConfigName") if status == "InService" else None
    if components.wanted():
        component = components.describe(name) or {}
        changing = component.get("InferenceComponentStatus")
        if changing in components.IN_PROGRESS:  # as it is scaled, for one
            return {"claimed": False, "busy": f"inference component {name} is {changing}", "status": status}
        serving = components.model_of(component) if changing == "InService" else None
    if serving not in (None, config):
        endpoint_records.change(name, lambda record: replace(record, previous_config=serving))
    return {"claimed": True, "busy": "", "status": status}
