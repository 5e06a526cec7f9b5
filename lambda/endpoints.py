"""What the handlers ask SageMaker about endpoints."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator
from typing import Any

from botocore.exceptions import ClientError

import aws

IN_PROGRESS = frozenset({"Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting"})
POLL_SECONDS = 5

# SageMaker has no error code of its own for a thing that is not there.
_GONE = ("Could not find", "Requested resource not found")


class StillChanging(Exception):  # noqa: N818 (the state machines retry on this name)
    """SageMaker is not done with the endpoint, or with what it hosts."""


def is_gone(error: ClientError) -> bool:
    return any(text in str(error) for text in _GONE)


def describe(name: str) -> dict[str, Any] | None:
    """DescribeEndpoint; None where there is none of this name."""
    try:
        found: dict[str, Any] = aws.client("sagemaker").describe_endpoint(EndpointName=name)
    except ClientError as error:
        if is_gone(error):
            return None
        raise
    return found


def settled(name: str, deadline: float) -> dict[str, Any] | None:
    """`describe` once SageMaker is done with the endpoint; at the deadline (time.monotonic) as it is."""
    while (found := describe(name)) and found["EndpointStatus"] in IN_PROGRESS and time.monotonic() <= deadline:
        time.sleep(POLL_SECONDS)
    return found


def stem() -> str:
    return os.environ["ENDPOINT_NAME"]


def is_own(name: str) -> bool:
    """Whether an endpoint is of the environment: its own name and those that begin with it, which its roles may
    touch."""
    return name == stem() or name.startswith(f"{stem()}-")


def names() -> list[str]:
    """Endpoints of the environment."""
    pages = aws.client("sagemaker").get_paginator("list_endpoints").paginate(NameContains=stem())
    return [item["EndpointName"] for page in pages for item in page["Endpoints"] if is_own(item["EndpointName"])]


def configs_in_use() -> set[str]:
    """Configurations that an endpoint of the environment has, or is on its way to, unless it is being deleted."""
    return {config for name in names() for config in configs_of(name)}


def configs_of(name: str) -> set[str]:
    found = describe(name) or {}
    return set() if found.get("EndpointStatus") == "Deleting" else set(_configs(found))


def _configs(found: dict[str, Any]) -> Iterator[str]:
    for place in (found, found.get("PendingDeploymentSummary") or {}):
        if place.get("EndpointConfigName"):
            yield place["EndpointConfigName"]


def delete_config(name: str, *, configs: Collection[str | None] = (), models: Collection[str | None] = ()) -> list[str]:
    """Deletes a configuration and the model of its name, but for those `configs` and `models`; says what it deleted."""
    done = []
    for kind, operation, member, kept in (
        ("endpoint configuration", "delete_endpoint_config", "EndpointConfigName", configs),
        ("model", "delete_model", "ModelName", models),
    ):
        if name in kept:
            continue
        try:
            getattr(aws.client("sagemaker"), operation)(**{member: name})
        except ClientError as error:
            if not is_gone(error):
                raise
        else:
            done.append(f"{kind} {name} deleted")
    return done
