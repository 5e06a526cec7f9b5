"""State `Read result`: whether the job has brought what it was to, and whether another instance may do better."""

from __future__ import annotations

from typing import Any

import aws
import base_folder
from heartbeat import failures, layout
from heartbeat.failures import BaseModelUnavailable


def handler(event: aws.Event, _context: object) -> dict[str, Any]:
    error, cause = event["error"].get("Error", ""), event["error"].get("Cause")
    if failures.is_capacity(error, cause):
        return {"outcome": "no_capacity", "why": failures.why_not(error, cause)}
    job = event["result"] or failures.read_cause(cause)
    status = job.get("TrainingJobStatus")
    if status not in {"Completed", "Stopped"}:
        raise BaseModelUnavailable(failures.explain(step="Bring weights", error=error, cause=cause).what)
    bucket, root = layout.split_uri(event["plan"]["uri"])
    missing = [found for one in event["plan"]["make"] if (found := base_folder.look(bucket, f"{root}{one}/")).missing]
    if missing:
        how = "was stopped before it was done" if status == "Stopped" else "ended, and yet"
        limit = f" (its limit: {event['max_runtime_seconds']} s)" if status == "Stopped" else ""
        raise BaseModelUnavailable(f"job {job['TrainingJobName']} {how}{limit}: {missing[0].lacks}")
    return {"outcome": "there", "job_name": job["TrainingJobName"]}
