"""State `Report`: one page a person reads, one record that a machine reads."""

from __future__ import annotations

from typing import Any

import aws
from heartbeat import report


def handler(event: aws.Event, _context: object) -> dict[str, Any]:
    return {"report": write(event, failure=None)}


def write(event: aws.Event, *, failure: dict[str, Any] | None) -> str:
    """Writes run.json and report.html from what the run's folder holds; returns the page's URI."""
    run = aws.run_of(event)
    parts = {name: aws.read_json(f"{run.prefix}{name}.json") for name in report.PARTS}
    record = {"execution": event["execution"], "state": event.get("state") or {}, "failure": failure, **parts}
    aws.write_json(run.record, record)
    return aws.write_text(run.report, report.page(record), "text/html")
