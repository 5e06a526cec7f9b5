"""The number of an endpoint's instances, as the settings have it: fixed, or by what is asked of it."""

from __future__ import annotations

import os

from botocore.exceptions import ClientError

import aws
from heartbeat import requests


def apply(endpoint: str) -> str:
    """Scales the endpoint as the settings say; says how."""
    most = int(os.environ["ENDPOINT_MAX_INSTANCES"])
    if not most:
        remove(endpoint)
        return "not scaled"
    least, at_once = int(os.environ["ENDPOINT_INSTANCES"]), float(os.environ["ENDPOINT_CONCURRENCY"])
    client = aws.client("application-autoscaling")
    client.register_scalable_target(**requests.scalable_target(endpoint=endpoint, least=least, most=most))
    client.put_scaling_policy(**requests.scaling_policy(endpoint=endpoint, concurrency=at_once))
    return f"{least} to {most} instances, {at_once:g} requests at once on each"


def remove(endpoint: str) -> None:
    """Ends the scaling and with it the alarms that it has; where there is none, nothing happens."""
    try:
        aws.client("application-autoscaling").deregister_scalable_target(**requests.scaled_variant(endpoint))
    except ClientError as error:
        if error.response["Error"]["Code"] != "ObjectNotFoundException":
            raise
