"""What the handlers ask of inference components: an endpoint that scales to zero hosts one, of its own name."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from botocore.exceptions import ClientError

import aws
import endpoints
from heartbeat import catalog, requests
from heartbeat.failures import PlanRefused

IN_PROGRESS = frozenset({"Creating", "Updating", "Deleting"})


def wanted() -> bool:
    """Whether the settings have endpoints scale to zero, so that they host components."""
    return os.environ.get("SCALE_TO_ZERO") == "true"


def most_copies() -> int:
    return int(os.environ["ENDPOINT_MAX_INSTANCES"])


def describe(name: str) -> dict[str, Any] | None:
    """DescribeInferenceComponent; None where there is none of this name."""
    try:
        found: dict[str, Any] = aws.client("sagemaker").describe_inference_component(InferenceComponentName=name)
    except ClientError as error:
        if endpoints.is_gone(error):
            return None
        raise
    return found


def model_of(component: Mapping[str, Any]) -> str:
    return str(component["Specification"]["ModelName"])


def is_awake(component: Mapping[str, Any]) -> bool:
    """Whether a copy of it answers."""
    copies: int = component.get("RuntimeConfig", {}).get("CurrentCopyCount", 0)
    return component["InferenceComponentStatus"] == "InService" and copies > 0


def settled(name: str, deadline: float) -> dict[str, Any] | None:
    """`describe` once SageMaker is done with the component. Raises StillChanging at the deadline (time.monotonic)."""
    while (found := describe(name)) and found["InferenceComponentStatus"] in IN_PROGRESS:
        if time.monotonic() > deadline:
            raise endpoints.StillChanging(f"inference component {name} is still {found['InferenceComponentStatus']}")
        time.sleep(endpoints.POLL_SECONDS)
    return found


def end(name: str, deadline: float) -> None:
    """Deletes a component, if there is one, and waits until it is gone, as its endpoint can be deleted only then.
    Raises StillChanging: SageMaker deletes none that it is making or changing."""
    if settled(name, deadline):
        aws.client("sagemaker").delete_inference_component(InferenceComponentName=name)
        settled(name, deadline)


def names() -> list[str]:
    """Components of the environment, by the names of its endpoints: also of those that are gone."""
    pages = aws.client("sagemaker").get_paginator("list_inference_components").paginate(NameContains=endpoints.stem())
    found = [item["InferenceComponentName"] for page in pages for item in page["InferenceComponents"]]
    return [name for name in found if endpoints.is_own(name)]


def in_use() -> tuple[set[str], set[str]]:
    """Configurations and models that an endpoint of the environment uses, or is on its way to."""
    if not wanted():
        configs = endpoints.configs_in_use()
        return configs, configs
    configs, models = set(), set()
    for name in endpoints.names():
        own = endpoints.configs_of(name)
        configs |= own
        component = describe(name)
        models |= {model_of(component)} if component else own
    return configs, models


def accelerators(instance_type: str) -> int:
    """All that the instance has: one copy an instance."""
    return catalog.load().get(instance_type).num_gpus


def variant(config: str) -> dict[str, Any]:
    """The one production variant of an endpoint configuration."""
    (found,) = aws.client("sagemaker").describe_endpoint_config(EndpointConfigName=config)["ProductionVariants"]
    return dict(found)


def refuse_other(name: str, found: Mapping[str, Any], *, instance_type: str | None = None) -> None:
    """Raises PlanRefused for an endpoint of this variant that cannot host what the settings, and the plan's
    `instance_type`, ask for."""
    hosts, most = "ModelName" not in found, found.get("ManagedInstanceScaling", {}).get("MaxInstanceCount", 0)
    if hosts != wanted():
        kinds = {True: "inference components", False: "a model of its own"}
        has, needs = f"holds {kinds[hosts]}", f"endpoint_scale_to_zero={str(wanted()).lower()} needs {kinds[wanted()]}"
        fix = f"set endpoint_scale_to_zero to {str(hosts).lower()}"
    elif hosts and most < most_copies() + 1:
        has = f"may have {most} instances"
        needs = f"endpoint_max_instances={most_copies()} needs {most_copies() + 1}, as an update starts one more"
        fix = f"set endpoint_max_instances to {most - 1}"
    elif hosts and instance_type not in (None, found["InstanceType"]):
        has, needs = f"is of {found['InstanceType']}", f"the plan chose {instance_type}"
        fix = f'set serving_instance_types to ["{found["InstanceType"]}"]'
    else:
        return
    again = "with its adapters" if wanted() else "with its own adapter alone"
    raise PlanRefused(
        f"endpoint {name} {has}, and {needs}: {fix}, or delete the endpoint, which the next run makes again {again}:"
        f" {delete_command(name, hosts)}"
    )


def require_instance(name: str, instance_type: str) -> None:
    """Raises PlanRefused for an endpoint that hosts components on instances of another type."""
    endpoint = endpoints.describe(name) if wanted() else None
    if endpoint:
        refuse_other(name, variant(endpoint["EndpointConfigName"]), instance_type=instance_type)


def delete_command(name: str, hosts_components: bool) -> str:
    endpoint = f"aws sagemaker delete-endpoint --endpoint-name {name}"
    component = f"aws sagemaker delete-inference-component --inference-component-name {name}"
    return f"{component}, and when that is gone {endpoint}" if hosts_components else endpoint


def create(name: str, model: str, *, instance_type: str, tags: list[requests.Body]) -> None:
    aws.client("sagemaker").create_inference_component(
        **requests.create_component(
            endpoint=name, model=model, accelerators=accelerators(instance_type), component_tags=tags
        )
    )


def update(name: str, model: str, *, instance_type: str, alarms: list[str]) -> None:
    specification = requests.component_specification(model=model, accelerators=accelerators(instance_type))
    aws.client("sagemaker").update_inference_component(
        **requests.update_component(endpoint=name, specification=specification, alarms=alarms)
    )
