"""What a state of a run found, in a few words, from the files that it left in the run's folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from heartbeat.cli import screen
from heartbeat.durations import about

Found = Mapping[str, Any]


def dataset(found: Found) -> str:
    stats, warnings = found["stats"], found["num_warnings"]
    about = "" if stats["tokens_are_exact"] else "about "
    said = f"{screen.count(stats['rows'], 'row')}, {about}{stats['tokens']:,} tokens"
    return f"{said}, {screen.count(warnings, 'warning')}" if warnings else said


def plan(found: Found) -> str:
    if not found["candidates"]:
        return ""
    first, *others = found["candidates"]
    hours = "unknown time" if first["hours"] is None else about(first["hours"] * 3600)
    old = " at an old price" if first.get("price_is_old") else ""
    parts = [first["instance_type"], first["mode"], hours, screen.usd(first["usd_on_demand"]) + old]
    return ", ".join(parts) + (f" (first of {len(others) + 1})" if others else "")


def gate(found: Found) -> str:
    return str(found["summary"])


def acceptance(found: Found) -> str:
    sample = found.get("sample")
    if not found["passed"] or not sample:
        return "; ".join(found["reasons"])
    return f"{found['reasons'][0]}; {screen.count(sample['turns'], 'held-out turn')} as in training"


SOURCES: Mapping[str, tuple[str, Callable[[Found], str]]] = {
    "Check dataset": ("dataset.json", dataset),
    "Plan": ("plan.json", plan),
    "Quality gate": ("gate.json", gate),
    "Acceptance check": ("acceptance.json", acceptance),
}
"""State -> its file in the run's folder, and what of it is worth a line."""
