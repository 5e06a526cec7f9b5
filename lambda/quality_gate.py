"""State `Quality gate`: only an adapter that beats its base on held-out rows goes on."""

from __future__ import annotations

from typing import Any

import aws
from heartbeat import quality, scores
from heartbeat.failures import QualityGateFailed


def handler(event: aws.Event, _context: object) -> dict[str, Any]:
    run = aws.run_of(event)
    found = aws.read_json(run.scores) or scores.unscored("the training job left no scores.json")
    record = quality.record(aws.read_json(run.metrics) or {}, found)
    uri = aws.write_json(run.gate, record)
    if not record["passed"]:
        raise QualityGateFailed(quality.failure(record, uri))
    return {"passed": True, "summary": record["summary"]}
