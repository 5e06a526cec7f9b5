"""What an endpoint serves now, or will when it is switched on again."""

from __future__ import annotations

from botocore.exceptions import ClientError

import aws
import endpoint_records
import endpoints
from heartbeat.adapters import Served


def served(endpoint_name: str) -> Served | None:
    """None where there is no endpoint of this name."""
    found = endpoints.describe(endpoint_name)
    config = found["EndpointConfigName"] if found else endpoint_records.read(endpoint_name).asleep
    if config is None:
        return None
    sagemaker = aws.client("sagemaker")
    try:
        (variant,) = sagemaker.describe_endpoint_config(EndpointConfigName=config)["ProductionVariants"]
        return Served.of_model(sagemaker.describe_model(ModelName=variant["ModelName"]))
    except ClientError as error:
        if found is None and endpoints.is_gone(error):  # deleted by hand while the endpoint was off
            return None
        raise
