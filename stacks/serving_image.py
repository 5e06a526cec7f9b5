"""Which image serves: AWS's public vLLM image in the Region of the stack, or one that the settings name."""

from __future__ import annotations

import re
from dataclasses import dataclass

import aws_cdk as cdk
from aws_cdk import region_info


@dataclass(frozen=True, kw_only=True)
class ServingImage:
    uri: str
    repository_arn: str


_ECR_URI = re.compile(
    r"(?:(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.[a-z.]+/)?(?P<name>[a-z0-9._/-]+)[:@].+"
)


def serving_image(stack: cdk.Stack, image: str) -> ServingImage:
    """The image of `settings.vllm_image`, for use in `stack`.

    A bare `name:tag` is in the registry of AWS Deep Learning Containers, whose account differs by Region: the
    template carries the CDK's table of them, so that it deploys to any Region in it. Raises ValueError.
    """
    match = _ECR_URI.fullmatch(image)
    if match is None:
        raise ValueError(f"{image!r} is neither name:tag nor an image of Amazon ECR")
    account = match["account"] or stack.regional_fact(region_info.FactName.DLC_REPOSITORY_ACCOUNT)
    region = match["region"] or stack.region
    return ServingImage(
        uri=image if match["account"] else f"{account}.dkr.ecr.{region}.{stack.url_suffix}/{image}",
        repository_arn=f"arn:{stack.partition}:ecr:{region}:{account}:repository/{match['name']}",
    )
