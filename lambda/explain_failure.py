"""State `Explain failure`: ends what bills, says what happened and what to do, and writes the report."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

import aws
import clean_up
import write_report
from heartbeat import failures
from heartbeat.failures import Name

_logger = logging.getLogger(__name__)


def handler(event: aws.Event, _context: object) -> dict[str, Any]:
    error = event["error"] or {}
    failure = failures.explain(
        step=event["step"], error=error.get("Error", "Unknown"), cause=error.get("Cause"), log=event.get("log")
    )
    done = clean_up.clean(event["execution"]["arn"], previous_config=event.get("previous_config"))
    if done.rolled_back:
        failure = failures.Failure(
            error=Name.ROLLED_BACK,
            what=failure.what,
            advice=failures.advice(Name.ROLLED_BACK),
            log=failure.log,
        )
    cause = failure.cause
    try:
        uri = write_report.write(event, failure={**asdict(failure), "cleaned": done.actions})
        cause = f"{cause}\nReport: {uri}"
    except Exception:
        # The reason of the failure matters more than its page: say it even when the page cannot be written.
        _logger.exception("the report could not be written")
    return {"error": str(failure.error), "cause": cause}
