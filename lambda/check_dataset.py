"""State `Check dataset`: the execution's input and every line of its dataset, before anything is spent."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

import aws
import base_folder
from heartbeat import dataset, json_lines, layout, tokens
from heartbeat.execution import InputError, RunRequest
from heartbeat.failures import DatasetInvalid, InputInvalid

_CODE = Path(__file__).parent
# The packages for Lambda's machine lie beside the code. Last: on a developer's machine its own come first.
sys.path.append(str(_CODE / "packages"))


def handler(event: aws.Event, _context: object) -> dict[str, Any]:
    try:
        request = RunRequest.parse(event["input"], event["defaults"])
    except InputError as error:
        raise InputInvalid(str(error)) from None
    if request.base_model is not None:
        _refuse_foreign("base_model", request.base_model, "MODEL_BUCKETS", "extra_model_buckets")
    job, _ = base_folder.job_of(request.to_dict())
    report = dataset.check(
        _lines("dataset", request.dataset),
        job=job,
        counter=_counter(),
        near_duplicates=True,
        held_out=_lines("held_out_dataset", request.held_out_dataset) if request.held_out_dataset else None,
    )
    aws.write_json(aws.run_of(event).prefix + "dataset.json", report.to_dict())
    if not report.ok:
        raise DatasetInvalid(f"{request.dataset}: {report.describe()}")
    return {"run": request.to_dict(), "dataset": report.stats.to_dict()}


def _counter() -> tokens.TokenCounter | None:
    """None, and a line in the log, where the app was deployed without the vocabulary: tokens are then estimates."""
    try:
        return tokens.load(_CODE / tokens.FOLDER / tokens.FILE_NAME)
    except tokens.TokenizerError as error:
        print(f"Tokens are estimates: {error}")
        return None


def _refuse_foreign(field: str, uri: str, variable: str, setting: str) -> None:
    """`variable` of the environment names the buckets that the app may read; `setting` adds to them."""
    bucket, _ = layout.split_uri(uri)
    allowed = os.environ[variable].split(",")
    if bucket not in allowed:
        raise InputInvalid(
            f"{field}={uri!r} is in a bucket that this app may not read; use {' or '.join(allowed)}, or add"
            f" the bucket to {setting} in cdk.json and deploy"
        )


def _lines(field: str, uri: str) -> Iterator[bytes]:
    """Of the object that this field of the input names."""
    _refuse_foreign(field, uri, "DATASET_BUCKETS", "extra_dataset_buckets")
    bucket, key = layout.split_uri(uri)
    s3 = aws.client("s3")
    # SageMaker's S3Prefix would also take FILE.jsonl.bak: a neighbour must not slip into the training data.
    found = s3.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=2).get("Contents", [])
    names = [item["Key"] for item in found]
    if key not in names:
        raise DatasetInvalid(
            f"s3://{bucket}/{key} does not exist; upload it with `aws s3 cp FILE s3://{bucket}/{key}` or name"
            f" another in the input's {field}"
        )
    if len(names) > 1:
        other = next(name for name in names if name != key)
        raise DatasetInvalid(
            f"s3://{bucket}/{other} begins with the dataset's name; rename it, or it is trained on too"
        )
    try:
        yield from json_lines.lines(s3.get_object(Bucket=bucket, Key=key)["Body"])
    except ClientError as error:
        if aws.is_missing(error):
            raise DatasetInvalid(f"s3://{bucket}/{key} was removed while it was read") from error
        raise
