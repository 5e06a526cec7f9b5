"""What an endpoint serves now."""

from __future__ import annotations

from botocore.exceptions import ClientError

import aws
from heartbeat.adapters import Served


def served(endpoint_name: str) -> Served | None:
    """None where there is no endpoint of this name."""
    sagemaker = aws.client("sagemaker")
    try:
        config = sagemaker.describe_endpoint(EndpointName=endpoint_name)["EndpointConfigName"]
    except ClientError as error:
        # SageMaker has no error code of its own for a thing that is not there.
        if "Could not find" in str(error):
            return None
        raise
    (variant,) = sagemaker.describe_endpoint_config(EndpointConfigName=config)["ProductionVariants"]
    return Served.of_model(sagemaker.describe_model(ModelName=variant["ModelName"]))
