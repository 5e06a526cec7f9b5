"""State `Acceptance check`: the endpoint itself is asked; an adapter that it ignores does not pass."""

from __future__ import annotations

import json
import time
from typing import Any

from botocore.exceptions import ClientError

import aws
from heartbeat import acceptance, layout, requests
from heartbeat.failures import AcceptanceFailed


def handler(event: aws.Event, _context: object) -> dict[str, Any]:
    bucket, key = layout.split_uri(event["dataset"])
    lines = aws.client("s3").get_object(Bucket=bucket, Key=key)["Body"].iter_lines()
    probes = acceptance.probes(lines)
    verdict = acceptance.judge(
        [
            _ask(event["endpoint_name"], probe, model)
            for probe in probes
            for model in (event["adapter_name"], requests.BASE_NAME)
        ]
    )
    aws.write_json(aws.run_of(event).prefix + "acceptance.json", verdict.to_dict())
    if not verdict.passed:
        raise AcceptanceFailed("; ".join(verdict.reasons))
    return {"reasons": list(verdict.reasons)}


def _ask(endpoint: str, probe: acceptance.Probe, model: str) -> acceptance.Answer:
    begin = time.monotonic()
    try:
        response = aws.client("sagemaker-runtime").invoke_endpoint(
            EndpointName=endpoint,
            ContentType="application/json",
            Body=json.dumps(acceptance.body(probe, model)),
        )
    except ClientError as error:
        if error.response["Error"]["Code"] != "ModelError":
            raise
        raise AcceptanceFailed(f"endpoint {endpoint} did not answer: {error}") from None
    return acceptance.read_answer(
        response["Body"].read(), model=model, question=probe.question, seconds=time.monotonic() - begin
    )
