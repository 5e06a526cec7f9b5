"""Of an endpoint that scales to zero: what a run that was not accepted changed is undone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import aws
import components
import endpoint_records
import scaling
from heartbeat import requests
from heartbeat.endpoint_record import EndpointRecord


def go_back(endpoint: dict[str, Any], *, stem: str, record: EndpointRecord, deadline: float) -> tuple[list[str], bool]:
    """What was done with a settled endpoint, and whether it serves again what it served before the run.

    What the run made begins with `stem`. Safe to call again, also where a call before has gone half of the way. Raises
    StillChanging at the deadline (time.monotonic).
    """
    if record.previous_config is None:
        return _end(endpoint, stem, deadline), False
    if endpoint["EndpointStatus"] != "InService":
        return [], False
    name, previous, done = endpoint["EndpointName"], record.previous_config, list[str]()
    going_back = record.going_back
    while True:
        component = components.settled(name, deadline)
        serving = components.model_of(component) if component else None
        if component and serving == previous and component["InferenceComponentStatus"] == "InService":
            # Where it came back with a copy, that ends when nobody has called for a while.
            return [*done, f"endpoint {name} is scaled again: {scaling.apply(name)}"], going_back
        if going_back:
            status = component["InferenceComponentStatus"] if component else "gone"
            reason = (component or {}).get("FailureReason", "no reason is given")
            return [*done, f"inference component {name} did not go back to {previous}, it is {status}: {reason}"], False
        if serving is not None and serving != previous and not serving.startswith(stem):
            return [*done, f"inference component {name} serves {serving}, which is not the run's: left as it is"], False
        _ask(endpoint, component, record, deadline)
        endpoint_records.change(name, lambda found: replace(found, going_back=True))
        going_back = True
        done.append(f"inference component {name} goes back to {previous}")


def _ask(endpoint: dict[str, Any], component: dict[str, Any] | None, record: EndpointRecord, deadline: float) -> None:
    """Asks for the model before. Without alarms: it was accepted, and what it takes the place of was not."""
    name, model = endpoint["EndpointName"], str(record.previous_config)
    instance_type = components.variant(endpoint["EndpointConfigName"])["InstanceType"]
    if component and components.is_awake(component):
        components.update(name, model, instance_type=instance_type, alarms=[])
        return
    components.end(name, deadline)
    run = str(record.holder).rsplit(":", 1)[-1]
    tags = requests.tags(environment=aws.environment(), run=run)
    components.create(name, model, instance_type=instance_type, tags=tags)


def _end(endpoint: dict[str, Any], stem: str, deadline: float) -> list[str]:
    """Ends what did not serve anything before the run: its component, and an endpoint that it made."""
    name, done = endpoint["EndpointName"], []
    component = components.settled(name, deadline)
    own = str(endpoint["EndpointConfigName"]).startswith(stem)
    if component and (own or components.model_of(component).startswith(stem)):
        components.end(name, deadline)
        done.append(f"inference component {name} deleted")
    if own:
        aws.client("sagemaker").delete_endpoint(EndpointName=name)
        done.append(f"endpoint {name} deleted")
    return done
