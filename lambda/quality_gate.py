"""State `Quality gate`: only an adapter that beats its base on held-out rows goes on."""

from __future__ import annotations

from typing import Any

import aws
from heartbeat import gate
from heartbeat.failures import QualityGateFailed


def handler(event: aws.Event, _context: object) -> dict[str, Any]:
    run = aws.run_of(event)
    verdict = gate.verdict(aws.read_json(run.metrics) or {})
    aws.write_json(run.prefix + "gate.json", verdict.to_dict())
    if not verdict.passed:
        raise QualityGateFailed("; ".join(verdict.reasons))
    return verdict.to_dict()
