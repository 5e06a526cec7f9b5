"""State `Acceptance check`: the endpoint itself is asked; an adapter that it ignores does not pass."""

from __future__ import annotations

import json
import time
from typing import Any

from botocore.exceptions import ClientError

import aws
from heartbeat import acceptance, requests
from heartbeat.failures import AcceptanceFailed


def handler(event: aws.Event, _context: object) -> dict[str, Any]:
    answers = [
        acceptance.Answer(model=model, question=probe, **_ask(event["endpoint_name"], model, probe))
        for probe in acceptance.PROBES
        for model in (requests.TUNED_NAME, requests.BASE_NAME)
    ]
    verdict = acceptance.judge(answers)
    aws.write_json(aws.run_of(event).prefix + "acceptance.json", verdict.to_dict())
    if not verdict.passed:
        raise AcceptanceFailed("; ".join(verdict.reasons))
    return {"passed": True, "reasons": list(verdict.reasons)}


def _ask(endpoint: str, model: str, question: str) -> dict[str, Any]:
    body = requests.chat(model=model, messages=acceptance.conversation(question), max_tokens=64)
    begin = time.monotonic()
    try:
        response = aws.client("sagemaker-runtime").invoke_endpoint(
            EndpointName=endpoint, ContentType="application/json", Body=json.dumps(body)
        )
    except ClientError as error:
        if error.response["Error"]["Code"] != "ModelError":
            raise
        raise AcceptanceFailed(f"endpoint {endpoint} answered with an error: {error}") from None
    return {"body": response["Body"].read().decode(), "seconds": time.monotonic() - begin}
