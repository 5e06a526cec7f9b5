"""The number of an endpoint's instances, as the settings have it: fixed, or by what is asked of it, down to none."""

from __future__ import annotations

import os
from typing import Any

from botocore.exceptions import ClientError

import aws
import components
import endpoints
from heartbeat import requests


def apply(endpoint: str) -> str:
    """Scales the endpoint as the settings say; says how."""
    if components.wanted():
        return _apply_to_component(endpoint)
    most = int(os.environ["ENDPOINT_MAX_INSTANCES"])
    if not most:
        remove(endpoint)
        return "not scaled"
    least, at_once = int(os.environ["ENDPOINT_INSTANCES"]), float(os.environ["ENDPOINT_CONCURRENCY"])
    client = aws.client("application-autoscaling")
    client.register_scalable_target(**requests.scalable_target(endpoint=endpoint, least=least, most=most))
    client.put_scaling_policy(**requests.scaling_policy(endpoint=endpoint, concurrency=at_once))
    return f"{least} to {most} instances, {at_once:g} requests at once on each"


def _apply_to_component(endpoint: str) -> str:
    most, at_once = components.most_copies(), float(os.environ["ENDPOINT_CONCURRENCY"])
    client = aws.client("application-autoscaling")
    client.register_scalable_target(**requests.component_target(endpoint=endpoint, most=most))
    # First what wakes it: an endpoint that went to sleep without it would not come back.
    wake = client.put_scaling_policy(**requests.wake_policy(endpoint))["PolicyARN"]
    alarm = requests.wake_alarm(environment=aws.environment(), endpoint=endpoint, policy_arn=wake)
    aws.client("cloudwatch").put_metric_alarm(**alarm)
    client.put_scaling_policy(**requests.component_policy(endpoint=endpoint, concurrency=at_once))
    return f"0 to {most} instances, {at_once:g} requests at once on each"


def remove(endpoint: str) -> None:
    """Ends the scaling and with it the alarms that it has; where there is none, nothing happens."""
    _deregister(requests.scaled_variant(endpoint))
    if components.wanted():
        _deregister(requests.scaled_component(endpoint))
        alarm = requests.wake_alarm_name(environment=aws.environment(), endpoint=endpoint)
        try:
            aws.client("cloudwatch").delete_alarms(AlarmNames=[alarm])
        except ClientError as error:
            if error.response["Error"]["Code"] not in {"ResourceNotFound", "ResourceNotFoundException"}:
                raise


def scaled_components() -> list[str]:
    """Endpoints of the environment whose component is scaled, also those that are gone."""
    pages = aws.client("application-autoscaling").get_paginator("describe_scalable_targets")
    found = [
        item["ResourceId"].partition("/")
        for page in pages.paginate(ServiceNamespace="sagemaker")
        for item in page["ScalableTargets"]
    ]
    return [name for kind, _, name in found if kind == "inference-component" and endpoints.is_own(name)]


def _deregister(scaled: dict[str, Any]) -> None:
    try:
        aws.client("application-autoscaling").deregister_scalable_target(**scaled)
    except ClientError as error:
        if error.response["Error"]["Code"] != "ObjectNotFoundException":
            raise
