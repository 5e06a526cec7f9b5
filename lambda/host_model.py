"""State `Host model`: the run's model as the endpoint's inference component. Called until it is done.

An endpoint that scales to zero hosts one component, and what that serves is changed beneath it: with a rolling update
while it is awake, by making it anew while it is asleep, since nobody is served then and the old model would be started
for nothing.
"""

from __future__ import annotations

import os
from typing import Any

from botocore.exceptions import ClientError

import aws
import components
import endpoints
import scaling
from heartbeat import requests
from heartbeat.failures import EndpointFailed, RolledBack

HELD = "held"
"""Scaling is held, so that nothing but the run changes the number of copies."""
ASKED = "asked"
"""SageMaker was asked for the run's model: if it comes back with another, it went back."""
Answer = dict[str, Any]


def handler(event: aws.Event, _context: object) -> Answer:
    """The next step, and whether all are done; `asked` is for the next call. Safe to call again.

    Raises EndpointFailed and RolledBack, with SageMaker's reason.
    """
    name, model, asked = event["endpoint_name"], event["model"], event["asked"]
    if not asked:
        scaling.remove(name)
        return _not_yet(HELD, "scaling is held")
    endpoint, component = endpoints.describe(name), components.describe(name)
    status = component["InferenceComponentStatus"] if component else ""
    if status in components.IN_PROGRESS:
        return _not_yet(asked, f"inference component {name} is {status}")
    if endpoint is None:
        return _without_endpoint(event, component)
    if endpoint["EndpointStatus"] in endpoints.IN_PROGRESS:
        return _not_yet(asked, f"endpoint {name} is {endpoint['EndpointStatus']}")
    if endpoint["EndpointStatus"] != "InService":
        raise EndpointFailed(
            f"endpoint {name} is {endpoint['EndpointStatus']}: {endpoint.get('FailureReason', 'no reason is given')}."
            f" Delete it with: {components.delete_command(name, component is not None)}"
        )
    if component is None:
        components.create(name, model, instance_type=event["instance_type"], tags=event["tags"])
        return _not_yet(ASKED, f"inference component {name} is made with {model}")
    return _with_component(event, component)


def _without_endpoint(event: aws.Event, component: dict[str, Any] | None) -> Answer:
    name, config = event["endpoint_name"], event["model"]
    if component:  # the endpoint was deleted before it: its name would stay taken
        return _delete(name)
    sagemaker = aws.client("sagemaker")
    body = requests.create_component_endpoint_config(
        name=config,
        role_arn=os.environ["ENDPOINT_ROLE_ARN"],
        instance_type=event["instance_type"],
        most_copies=components.most_copies(),
        config_tags=event["tags"],
        internet=os.environ["SERVING_INTERNET"] == "true",
    )
    try:
        sagemaker.create_endpoint_config(**body)
    except ClientError as error:  # made by a call whose answer was lost
        if "already existing" not in str(error):
            raise
    sagemaker.create_endpoint(**requests.create_endpoint(name=name, config=config, endpoint_tags=event["tags"]))
    return _not_yet(HELD, f"endpoint {name} is made")


def _with_component(event: aws.Event, component: dict[str, Any]) -> Answer:
    """For an endpoint in service and a component that SageMaker is done with."""
    name, model, asked = event["endpoint_name"], event["model"], event["asked"]
    serving, reason = components.model_of(component), component.get("FailureReason", "no reason is given")
    if serving == model:
        return _with_model(name, component)
    if asked == ASKED:
        if components.is_awake(component):
            raise RolledBack(f"SageMaker went back from {model} to {serving}, which serves again: {reason}")
        raise EndpointFailed(f"inference component {name} has {serving} in place of {model}: {reason}")
    if not components.is_awake(component):
        return _delete(name)
    own = name == os.environ["ENDPOINT_NAME"]
    # The stack has alarms for its own endpoint; it cannot know the others that a run may name.
    alarms = os.environ["ROLLBACK_ALARMS"].split(",") if own else []
    components.update(name, model, instance_type=event["instance_type"], alarms=alarms)
    return _not_yet(ASKED, f"inference component {name} is updated from {serving} to {model}")


def _with_model(name: str, component: dict[str, Any]) -> Answer:
    """For a component that has the run's model, and is to serve it."""
    if component["InferenceComponentStatus"] == "Failed":
        raise EndpointFailed(
            f"inference component {name} failed: {component.get('FailureReason', 'no reason is given')}"
        )
    if components.is_awake(component):
        return {"done": True, "said": f"inference component {name} serves", "asked": ASKED}
    if component["RuntimeConfig"].get("DesiredCopyCount", 0) == 0:  # somebody has sent it to sleep
        copies = requests.component_copies(endpoint=name, copies=1)
        aws.client("sagemaker").update_inference_component_runtime_config(**copies)
    return _not_yet(ASKED, f"inference component {name} has no copy yet")


def _delete(name: str) -> Answer:
    aws.client("sagemaker").delete_inference_component(InferenceComponentName=name)
    return _not_yet(HELD, f"inference component {name} is deleted, to be made anew")


def _not_yet(asked: str, said: str) -> Answer:
    return {"done": False, "said": said, "asked": asked}
