"""State `Accept endpoint`: lets go of the endpoint, deletes what it no longer needs to go back to, and scales it.

The rule: the configuration that was accepted and the KEEP_PREVIOUS before it stay, with their models; the others that
runs made for this endpoint go, unless an endpoint of the environment uses them. Adapters stay in their runs' folders.
"""

from __future__ import annotations

import os
from typing import Any

import aws
import components
import endpoint_records
import endpoints
import scaling
from heartbeat.endpoint_record import EndpointRecord


def handler(event: aws.Event, _context: object) -> dict[str, Any]:
    name, config, execution = event["endpoint_name"], event["config"], event["execution"]["arn"]
    dropped: list[str] = []

    def accepted(record: EndpointRecord) -> EndpointRecord:
        if record.holder != execution:  # called again after it was done, or the record was deleted meanwhile
            return record
        later = record.with_accepted(config, keep_previous=int(os.environ["KEEP_PREVIOUS"]))
        dropped[:] = record.dropped(later)
        return later

    kept = endpoint_records.change(name, accepted)
    configs, models = components.in_use()
    actions = [line for old in dropped for line in endpoints.delete_config(old, configs=configs, models=models)]
    arn = (endpoints.describe(name) or {})["EndpointArn"]
    aws.client("sagemaker").add_tags(ResourceArn=arn, Tags=event["tags"])
    return {"kept": list(kept.accepted), "deleted": actions, "scaling": scaling.apply(name)}
