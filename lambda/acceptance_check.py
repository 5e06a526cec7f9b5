"""State `Acceptance check`: the endpoint itself is asked; an adapter that it ignores, or spoils, does not pass."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError, HTTPClientError

import aws
from heartbeat import acceptance, acceptance_sample, held_out_sample, layout, persona, requests
from heartbeat.acceptance import Answer
from heartbeat.cases import Case
from heartbeat.failures import AcceptanceFailed

PATIENCE_SECONDS = 720
"""For 34 calls at the most, one after the other, of the function's 15 minutes."""
_CONFIG = Config(read_timeout=70, retries={"mode": "standard", "total_max_attempts": 2})
"""SageMaker gives an answer 60 s. Once more for a fault of the network, and no oftener: the time is counted."""


def handler(event: aws.Event, _context: object) -> dict[str, Any]:
    run, name = aws.run_of(event), event["adapter_name"]
    bucket, key = layout.split_uri(event["dataset"])
    probes = acceptance.probes(aws.client("s3").get_object(Bucket=bucket, Key=key)["Body"].iter_lines())
    gate = aws.read_json(run.gate) or {}
    cases, max_tokens = _sample(event, run, gate)
    own = [(acceptance.body(probe, model), probe.question) for probe in probes for model in (name, requests.BASE_NAME)]
    others = [
        (acceptance.body(probe, other), probe.question)
        for other in event["adapters"]
        for probe in probes[:1]
        if other != name
    ]
    held_out = [(acceptance.body_of_case(case, name, max_tokens=max_tokens), "") for case in cases or ()]
    ask = _Asking(event["endpoint_name"], event.get("component"))
    answers, kept, said = ask.all(own), ask.all(others), ask.all(held_out)
    texts = [answer.text for answer in said]
    verdict = acceptance.judge(
        answers,
        kept=kept,
        said=said,
        sample=acceptance_sample.verdict(cases, texts, persona.load(), gate) if cases is not None else None,
        speed=acceptance_sample.speed([answer.seconds for answer in said], [answer.num_tokens for answer in said]),
    )
    uri = aws.write_json(run.acceptance, verdict.to_dict())
    if not verdict.passed:
        raise AcceptanceFailed(f"{'; '.join(verdict.reasons)}. Details: {uri}")
    return {"reasons": list(verdict.reasons)}


def _sample(event: aws.Event, run: layout.Run, gate: Mapping[str, Any]) -> tuple[list[Case] | None, int]:
    """The held-out turns to ask about and the tokens of an answer; None where the gate judged by the loss alone."""
    if not gate.get("table"):
        return None, 0
    key = run.checkpoints + held_out_sample.FILE
    kept = aws.read_json(key)
    if kept is None:
        raise AcceptanceFailed(
            f"the held-out rows to ask the endpoint are gone: {layout.uri(aws.artifact_bucket(), key)} expires with the"
            " checkpoints, checkpoint_days after training"
        )
    return held_out_sample.read(kept, max_model_len=event["max_model_len"]), kept["max_new_tokens"]


class _Asking:
    """Asks one endpoint, one question after the other: so the seconds are an answer's own."""

    def __init__(self, endpoint: str, component: str | None) -> None:
        self._endpoint, self._client = endpoint, boto3.client("sagemaker-runtime", config=_CONFIG)
        self._to = {"EndpointName": endpoint, **({"InferenceComponentName": component} if component else {})}
        self._begin = time.monotonic()
        self._answered = 0

    def all(self, asked: Sequence[tuple[requests.Body, str]]) -> list[Answer]:
        """Answers in order, to (body, question). Raises AcceptanceFailed at the first that does not come, or comes when
        the time is over."""
        return [self._one(body, question) for body, question in asked]

    def _one(self, body: requests.Body, question: str) -> Answer:
        begin = time.monotonic()
        if begin - self._begin > PATIENCE_SECONDS:
            raise AcceptanceFailed(
                f"endpoint {self._endpoint} is too slow: {self._answered} answers took {begin - self._begin:.0f} s"
            )
        try:
            response = self._client.invoke_endpoint(**self._to, ContentType="application/json", Body=json.dumps(body))
            raw = response["Body"].read()
        except (ClientError, HTTPClientError) as error:
            if isinstance(error, ClientError) and error.response["Error"]["Code"] != "ModelError":
                raise
            raise AcceptanceFailed(f"endpoint {self._endpoint} did not answer as {body['model']!r}: {error}") from None
        self._answered += 1
        return acceptance.read_answer(raw, model=body["model"], question=question, seconds=time.monotonic() - begin)
