"""State `Wait for approval`: leaves the task token where `python -m heartbeat approve` finds it."""

from __future__ import annotations

from typing import Any

import aws


def handler(event: aws.Event, _context: object) -> dict[str, Any]:
    # The token lets its holder continue this one state; it lies encrypted in the run's folder, never in a log.
    aws.write_json(aws.run_of(event).prefix + "approval.json", {"task_token": event["task_token"]})
    return {}
