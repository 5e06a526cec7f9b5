"""Reads and writes the records of endpoints: a write counts only if nobody has written since the read."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime

from botocore.exceptions import ClientError

import aws
from heartbeat import layout
from heartbeat.endpoint_record import EndpointRecord, gives_way

_TRIES = 10
_TAKEN = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", "412", "409"})
"""Another has written, is writing, or has deleted what was read."""


class TooManyWritersError(Exception):
    """Others wrote the record between every read and write of ours."""


class HeldError(Exception):
    """Another execution may change the endpoint now; the text says which."""


def read(name: str) -> EndpointRecord:
    """The record of endpoint `name`; an empty one where there is none yet."""
    return _read(name)[0]


def change(name: str, make: Callable[[EndpointRecord], EndpointRecord]) -> EndpointRecord:
    """Writes what `make` makes of the record, made anew of what another wrote in between; returns it.

    An exception of `make` leaves the record as it is. Raises TooManyWritersError.
    """
    for _ in range(_TRIES):
        found, etag = _read(name)
        made = make(found)
        if made == found or _write(name, made, etag):
            return made
    raise TooManyWritersError(f"{layout.endpoint_record(name)} was written by others {_TRIES} times in between")


def claim(name: str, execution_arn: str, make: Callable[[EndpointRecord], EndpointRecord]) -> EndpointRecord:
    """`change` for an execution that is to hold the endpoint, by itself or by `make`. Raises HeldError."""

    def claimed(record: EndpointRecord) -> EndpointRecord:
        if record.holder == execution_arn:
            return record
        if record.holder and not _gives_way(record.holder):
            raise HeldError(_who(record.holder, name))
        return make(record)

    return change(name, claimed)


def _who(holder: str, endpoint: str) -> str:
    machine, run = holder.rsplit(":", 2)[1:]
    if machine.endswith("-Schedule"):
        return f"endpoint {endpoint} is being switched on or off"
    return f"run {run} is deploying to endpoint {endpoint} (python -m heartbeat watch {run})"


def _gives_way(execution_arn: str) -> bool:
    try:
        found = aws.client("stepfunctions").describe_execution(executionArn=execution_arn)
    except ClientError as error:
        if error.response["Error"]["Code"] == "ExecutionDoesNotExist":  # Step Functions forgets after 90 days
            return True
        raise
    return gives_way(found["status"], found.get("stopDate"), datetime.now(UTC))


def _read(name: str) -> tuple[EndpointRecord, str | None]:
    """The record, and the ETag that a write must match; None where it must be the first."""
    key = layout.endpoint_record(name)
    # Asked first: S3 answers 403 for a missing key to a role that may list certain prefixes only.
    if key not in aws.list_objects(key):
        return EndpointRecord(), None
    found = aws.client("s3").get_object(Bucket=aws.artifact_bucket(), Key=key)
    return EndpointRecord.from_dict(json.loads(found["Body"].read())), found["ETag"]


def _write(name: str, record: EndpointRecord, etag: str | None) -> bool:
    condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}
    try:
        aws.client("s3").put_object(
            Bucket=aws.artifact_bucket(),
            Key=layout.endpoint_record(name),
            Body=json.dumps(record.to_dict(), indent=1).encode(),
            ContentType="application/json; charset=utf-8",
            **condition,
        )
    except ClientError as error:
        if error.response["Error"]["Code"] in _TAKEN:
            return False
        raise
    return True
