"""The deployed app, as the outputs of its stack tell it, and the AWS clients that commands use."""

from __future__ import annotations

import functools
import json
import os
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from heartbeat.cli.errors import UserError

_CONFIG = Config(retries={"mode": "standard", "max_attempts": 5})
_IMPATIENT = Config(connect_timeout=3, read_timeout=10, retries={"mode": "standard", "max_attempts": 2})


@dataclass(frozen=True, kw_only=True)
class App:
    """One deployed environment."""

    environment: str
    state_machine_arn: str
    data_bucket: str
    artifact_bucket: str
    endpoint_name: str
    base_model_prefix: str
    weights_machine_arn: str
    hub_token_secret_arn: str

    def read_json(self, key: str) -> Any | None:
        """The JSON at `key` of the artifact bucket; None where there is none."""
        try:
            body = client("s3").get_object(Bucket=self.artifact_bucket, Key=key)["Body"].read()
        except ClientError as error:
            if is_missing(error):
                return None
            raise
        return json.loads(body)


@functools.cache
def client(service: str, region: str | None = None, *, patient: bool = True) -> Any:
    """`region`: where the session's own would not do. boto3 reads AWS_DEFAULT_REGION, and not the AWS_REGION of the
    other SDKs and of our own advice. Not `patient`: for what one can do without."""
    config = _CONFIG if patient else _CONFIG.merge(_IMPATIENT)
    return boto3.client(service, config=config, region_name=region or os.environ.get("AWS_REGION") or None)


def connect(environment: str) -> App:
    """The app of this environment in the credentials' account. Raises UserError where it is not deployed."""
    name = f"HeartBeat-{environment}-Pipeline"
    cloudformation = client("cloudformation")
    try:
        stack = cloudformation.describe_stacks(StackName=name)["Stacks"][0]
    except ClientError as error:
        if "does not exist" not in str(error):
            raise
        raise UserError(
            f"there is no stack {name} in {where(cloudformation)}; deploy it (`make deploy ENVIRONMENT={environment}`),"
            " or name another with --environment, AWS_PROFILE or AWS_REGION"
        ) from None
    outputs = {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}
    try:
        return App(
            environment=environment,
            state_machine_arn=outputs["StateMachineArn"],
            data_bucket=outputs["DataBucketName"],
            artifact_bucket=outputs["ArtifactBucketName"],
            endpoint_name=outputs["EndpointName"],
            base_model_prefix=outputs["BaseModelPrefix"],
            weights_machine_arn=outputs["WeightsStateMachineArn"],
            hub_token_secret_arn=outputs["HubTokenSecretArn"],
        )
    except KeyError as missing:
        status = stack.get("StackStatus")
        raise UserError(f"stack {name} ({status}) has no output {missing}; deploy it again (`make deploy`)") from None


def where(any_client: Any) -> str:
    """`us-east-1`, or the address of an AWS that is not Amazon's."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    return str(any_client.meta.region_name) + (f" at {endpoint}" if endpoint else "")


def is_local() -> bool:
    """Whether commands talk to an AWS on this machine, which bills nothing."""
    return urlsplit(os.environ.get("AWS_ENDPOINT_URL", "")).hostname in {"127.0.0.1", "localhost", "::1"}


def pause_seconds() -> float:
    """Between two looks at something that goes on."""
    return 0.4 if is_local() else 5.0


def is_missing(error: ClientError) -> bool:
    """Whether S3 says that there is no such object or bucket."""
    return error.response["Error"]["Code"] in {"404", "NoSuchKey", "NoSuchBucket", "NotFound"}
