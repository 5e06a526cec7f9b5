"""State `Read training result`: what the job left, whether it ended well, at the stop, or not at all."""

from __future__ import annotations

from typing import Any

import aws
from heartbeat import failures, layout
from heartbeat.failures import TrainingFailed

_ADAPTER = ("adapter/adapter_config.json", "adapter/adapter_model.safetensors")


def handler(event: aws.Event, _context: object) -> dict[str, Any]:
    error, cause = event["error"].get("Error", ""), event["error"].get("Cause")
    if failures.is_capacity(error, cause):
        return {"outcome": "no_capacity", "why": failures.why_not(error, cause)}
    job = event["result"] or failures.read_cause(cause)
    if job.get("TrainingJobStatus") not in {"Completed", "Stopped"}:
        raise TrainingFailed(failures.explain(step="Train", error=error, cause=cause).what)
    return _publish(aws.run_of(event), job)


def _publish(run: layout.Run, job: dict[str, Any]) -> dict[str, Any]:
    """Copies the small results to the run's folder; a job that was stopped counts if its adapter is whole."""
    name, seconds = job["TrainingJobName"], int(job.get("BillableTimeInSeconds") or 0)
    output = run.training_output(name)
    files = {key.removeprefix(output) for key in aws.list_objects(output)}
    missing = [part for part in (*_ADAPTER, "metrics.json") if part not in files]
    if missing:
        how = "was stopped before it saved" if job["TrainingJobStatus"] == "Stopped" else "ended without"
        raise TrainingFailed(f"training job {name} {how} {', '.join(missing)}; its stop came too early to be of use")
    adapter = {part for part in files if part.startswith("adapter/")}
    results = ["metrics.json", *(part for part in ("scores.json",) if part in files)]
    for part in (*sorted(adapter), *results):
        # One call, up to 5 GB, whose refusal names the action; the managed copy's HeadObject says 403 and no more.
        source = {"Bucket": aws.artifact_bucket(), "Key": output + part}
        aws.client("s3").copy_object(Bucket=aws.artifact_bucket(), Key=run.prefix + part, CopySource=source)
    metrics = aws.read_json(run.metrics) or {}
    return {
        "outcome": "trained",
        "job_name": name,
        "stopped_early": job["TrainingJobStatus"] == "Stopped" or metrics.get("status") != "completed",
        "instance_type": job["ResourceConfig"]["InstanceType"],
        "billable_seconds": seconds,
        "adapter_uri": layout.uri(aws.artifact_bucket(), run.adapter),
    }
