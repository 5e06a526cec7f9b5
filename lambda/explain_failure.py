"""State `Explain failure`: ends what bills, says what happened and what to do, and writes the report."""

from __future__ import annotations

import logging
import os
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

import aws
import clean_up
import components
import write_report
from heartbeat import failures
from heartbeat.failures import Name

_logger = logging.getLogger(__name__)


def handler(event: aws.Event, _context: object) -> dict[str, Any]:
    error = event["error"] or {}
    failure = failures.explain(
        step=event["step"], error=error.get("Error", "Unknown"), cause=error.get("Cause"), log=_log(event)
    )
    done = clean_up.clean(event["execution"]["arn"], endpoint_name=event["endpoint_name"])
    alarms = _alarms_since(event["update_began"]) if failure.error is Name.ROLLED_BACK else []
    if alarms:
        failure = replace(failure, what=f"{failure.what} Alarms that went off: {', '.join(alarms)}.")
    if done.rolled_back:
        failure = replace(failure, error=Name.ROLLED_BACK, advice=failures.advice(Name.ROLLED_BACK))
    cause = failure.cause
    try:
        uri = write_report.write(event, failure={**asdict(failure), "cleaned": done.actions})
        cause = f"{cause}\nReport: {uri}"
    except Exception:
        # The reason of the failure matters more than its page: say it even when the page cannot be written.
        _logger.exception("the report could not be written")
    return {"error": str(failure.error), "cause": cause}


def _alarms_since(began: str) -> list[str]:
    """The alarms that SageMaker watches during an update and that went off since it began (ISO 8601)."""
    history = aws.client("cloudwatch").get_paginator("describe_alarm_history")
    since = datetime.fromisoformat(began)
    return [
        name
        for name in os.environ["ROLLBACK_ALARMS"].split(",")
        if any(
            item["HistorySummary"].endswith("to ALARM")
            for page in history.paginate(AlarmName=name, HistoryItemType="StateUpdate", StartDate=since)
            for item in page["AlarmHistoryItems"]
        )
    ]


def _log(event: aws.Event) -> str:
    """Where the step wrote: CloudWatch log group, and the stream's beginning where it is shared."""
    step = event["step"]
    if step in {"Train", "Read training result"}:
        return f"CloudWatch Logs /aws/sagemaker/TrainingJobs, streams {event['run_id']}…"
    if step == "Build image":
        return f"CloudWatch Logs {os.environ['BUILD_LOG_GROUP']}"
    if step in {"Host model", "Wait for endpoint", "Acceptance check"}:
        if components.wanted():
            return f"CloudWatch Logs /aws/sagemaker/InferenceComponents/{event['endpoint_name']}"
        return f"CloudWatch Logs /aws/sagemaker/Endpoints/{event['endpoint_name']}"
    return "the execution's history"
