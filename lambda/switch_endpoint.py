"""State `Switch`: the app's endpoint off, or on again as it was. Called until it is done."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from botocore.exceptions import ClientError

import aws
import endpoint_records
import endpoints
import scaling
from heartbeat import requests
from heartbeat.endpoint_record import EndpointRecord
from heartbeat.failures import InputInvalid


def handler(event: aws.Event, _context: object) -> dict[str, Any]:
    """Whether it is done, and what was done or is waited for. Safe to call again."""
    name, execution = os.environ["ENDPOINT_NAME"], event["execution"]["arn"]
    switches = {"on": _on, "off": _off}
    if event["switch"] not in switches:
        raise InputInvalid(f"switch={event['switch']!r} must be 'on' or 'off'")
    try:
        record = endpoint_records.claim(name, execution, lambda found: replace(found, holder=execution))
    except endpoint_records.HeldError as held:
        return {"done": False, "said": str(held)}
    # Held for this call alone: a run may come in while the endpoint is made, and waits for it as for any other.
    done, said = switches[event["switch"]](name, record)
    endpoint_records.change(name, lambda found: replace(found, holder=None) if found.holder == execution else found)
    return {"done": done, "said": f"endpoint {name} {said}"}


def _off(name: str, record: EndpointRecord) -> tuple[bool, str]:
    found = endpoints.describe(name)
    if found is None or found["EndpointStatus"] == "Deleting":
        return True, "is off"
    if found["EndpointStatus"] in endpoints.IN_PROGRESS:
        return False, f"is {found['EndpointStatus']}"
    config: str | None = found["EndpointConfigName"]
    if found["EndpointStatus"] != "InService":  # broken: what it was to be, or was last accepted as
        config = record.asleep or next(iter(record.accepted), None)
    # Before it is deleted: called again after that, one could not know any more.
    _remember(name, config)
    scaling.remove(name)
    aws.client("sagemaker").delete_endpoint(EndpointName=name)
    return True, f"is deleted; it will be made again of {config}" if config else "is deleted"


def _on(name: str, record: EndpointRecord) -> tuple[bool, str]:
    found = endpoints.describe(name)
    if record.asleep is None:
        return True, "was not switched off" if found else "was never deployed, or its configuration is gone"
    if found is None:
        return _make(name, record.asleep)
    status = found["EndpointStatus"]
    if status == "Failed":  # for want of capacity, as a rule: it was in service before
        aws.client("sagemaker").delete_endpoint(EndpointName=name)
        return False, f"is made again: {found.get('FailureReason', 'it failed')}"
    if status != "InService":
        return False, f"is {status}"
    _remember(name, None)
    return True, f"is in service, {scaling.apply(name)}"


def _make(name: str, config: str) -> tuple[bool, str]:
    sagemaker = aws.client("sagemaker")
    try:
        arn = sagemaker.describe_endpoint_config(EndpointConfigName=config)["EndpointConfigArn"]
    except ClientError as error:
        if not endpoints.is_gone(error):
            raise
        _remember(name, None)
        return True, f"cannot be made: configuration {config} is gone"
    tags = sagemaker.list_tags(ResourceArn=arn)["Tags"]
    sagemaker.create_endpoint(**requests.create_endpoint(name=name, config=config, endpoint_tags=tags))
    return False, "is Creating"


def _remember(name: str, config: str | None) -> None:
    endpoint_records.change(name, lambda record: replace(record, asleep=config))
