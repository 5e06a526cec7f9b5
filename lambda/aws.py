"""What the handlers share: clients made once a container, JSON in S3, the run's folder."""

from __future__ import annotations

import functools
import json
import os
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from heartbeat import layout

Event = dict[str, Any]

# Five tries with back-off of the client's own: a throttled read is no reason to end a run.
_CONFIG = Config(retries={"mode": "standard", "max_attempts": 5})


@functools.cache
def client(service: str) -> Any:
    return boto3.client(service, config=_CONFIG)


def artifact_bucket() -> str:
    return os.environ["ARTIFACT_BUCKET"]


def environment() -> str:
    return os.environ["ENVIRONMENT"]


def is_missing(error: ClientError) -> bool:
    """Whether S3 says that there is no such object or bucket."""
    return error.response["Error"]["Code"] in {"404", "NoSuchKey", "NoSuchBucket", "NotFound"}


def read_json(key: str, *, bucket: str | None = None) -> Any | None:
    """The JSON object at `key` of the artifact bucket, or of another; None where there is none."""
    bucket = bucket or artifact_bucket()
    try:
        body = client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
    except ClientError as error:
        if is_missing(error) or _is_denied_but_absent(error, bucket, key):
            return None
        raise
    return json.loads(body)


def _is_denied_but_absent(error: ClientError, bucket: str, key: str) -> bool:
    """Of what is not there S3 says 403 to a role that may list below a prefix only: a listing tells the two apart."""
    if error.response["Error"]["Code"] not in {"403", "AccessDenied"}:
        return False
    try:
        return key not in list_objects(key, bucket=bucket)
    except ClientError:
        return False


def write_json(key: str, value: object) -> str:
    """Writes `value` and returns its URI."""
    return write_text(key, json.dumps(value, indent=1, default=str), "application/json")


def write_text(key: str, text: str, content_type: str) -> str:
    client("s3").put_object(
        Bucket=artifact_bucket(), Key=key, Body=text.encode(), ContentType=f"{content_type}; charset=utf-8"
    )
    return layout.uri(artifact_bucket(), key)


def list_objects(prefix: str, *, bucket: str | None = None) -> dict[str, int]:
    """Key -> size in bytes of everything under `prefix` of the artifact bucket, or of another."""
    pages = client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket or artifact_bucket(), Prefix=prefix)
    return {item["Key"]: item["Size"] for page in pages for item in page.get("Contents", [])}


def run_of(event: Event) -> layout.Run:
    return layout.Run(event["execution"]["name"])
