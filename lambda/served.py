"""What an endpoint serves now, or will when it is switched on or made again."""

from __future__ import annotations

from botocore.exceptions import ClientError

import aws
import components
import endpoint_records
import endpoints
from heartbeat.adapters import Served


def served(endpoint_name: str, *, instance_type: str | None = None) -> Served | None:
    """None where there is no endpoint of this name.

    Raises PlanRefused for an endpoint that cannot host what the settings ask for, or is not of `instance_type`.
    """
    found = endpoints.describe(endpoint_name)
    try:
        model = _model(endpoint_name, found["EndpointConfigName"] if found else None, instance_type)
        return None if model is None else Served.of_model(aws.client("sagemaker").describe_model(ModelName=model))
    except ClientError as error:
        if found is None and endpoints.is_gone(error):  # deleted by hand while the endpoint was off
            return None
        raise


def _model(endpoint_name: str, config: str | None, instance_type: str | None) -> str | None:
    """`config` is what the endpoint is made of, None where there is none."""
    if not components.wanted():
        config = config or endpoint_records.read(endpoint_name).asleep
        if config is None:
            return None
        variant = components.variant(config)
        components.refuse_other(endpoint_name, variant)
        return str(variant["ModelName"])
    if config is not None:
        components.refuse_other(endpoint_name, components.variant(config), instance_type=instance_type)
    component = components.describe(endpoint_name)
    if component:
        return components.model_of(component)
    # Of an endpoint that was deleted to be made anew, as it may have to be.
    return next(iter(endpoint_records.read(endpoint_name).accepted), None)
