"""State `Gather adapters`: the container of this run's adapter and of those that the endpoint serves already."""

from __future__ import annotations

from typing import Any

import aws
import served
from heartbeat import requests
from heartbeat.adapters import NewAdapter
from heartbeat.failures import InputInvalid
from heartbeat.job import SettingError


def handler(event: aws.Event, _context: object) -> dict[str, Any]:
    new = NewAdapter(**event["adapter"])
    try:
        uris, settings = new.beside(served.served(event["endpoint_name"], instance_type=event.get("instance_type")))
    except SettingError as error:
        raise InputInvalid(str(error)) from None
    return {
        "names": list(uris),
        "container": requests.container(
            image=event["image"],
            base_model_uri=new.base_uri,
            adapter_uris=uris,
            environment=settings.environment(),
        ),
    }
