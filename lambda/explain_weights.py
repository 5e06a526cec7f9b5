"""State `Explain failure` of the state machine that brings base weights: what happened, and what to do next."""

from __future__ import annotations

from typing import Any

import aws
from heartbeat import failures


def handler(event: aws.Event, _context: object) -> dict[str, Any]:
    error, step = event["error"] or {}, event["step"]
    is_job = step in {"Bring weights", "Read result"}
    log = f"CloudWatch Logs /aws/sagemaker/TrainingJobs, streams {event['run_id']}…" if is_job else None
    failure = failures.explain(step=step, error=error.get("Error", "Unknown"), cause=error.get("Cause"), log=log)
    return {"error": str(failure.error), "cause": failure.cause}
