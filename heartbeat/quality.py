"""The quality gate as a whole: one verdict by the held-out loss (`heartbeat.gate`) and by what was said
(`heartbeat.score_gate`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from heartbeat import gate, score_gate
from heartbeat.gate import Verdict
from heartbeat.score_gate import Rules

_SHOWN_CHARACTERS = 1000


def verdict(metrics: Mapping[str, Any], scores: Mapping[str, Any], rules: Rules | None = None) -> Verdict:
    """Judges a run by its metrics.json and its scores.json: both must pass. Never raises for what is missing."""
    both = (gate.verdict(metrics), score_gate.verdict(scores, rules))
    passed = all(one.passed for one in both)
    # What failed, or else all that passed.
    reasons = tuple(reason for one in both if passed or not one.passed for reason in one.reasons)
    return Verdict(passed=passed, reasons=reasons, figures={**both[0].figures, **both[1].figures})


def record(metrics: Mapping[str, Any], scores: Mapping[str, Any], rules: Rules | None = None) -> dict[str, Any]:
    """What gate.json holds: the verdict, a table of the metrics, and the scores with their transcripts."""
    found = verdict(metrics, scores, rules)
    table = score_gate.table(scores, rules)
    return {**found.to_dict(), "summary": summary(found, table), "table": table, "scores": dict(scores)}


def summary(found: Verdict, table: list[dict[str, Any]]) -> str:
    """The verdict in a line: what failed, or how many metrics passed. At most some 1,000 characters."""
    if not found.passed:
        text = "; ".join(found.reasons)
        return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
    loss = f"held-out loss {found.figures['tuned_loss']:.2f}, base {found.figures['base_loss']:.2f}"
    met = sum(row["outcome"] == "met" for row in table)
    return f"{loss}; {met} of {len(table)} metrics met their bounds" if table else f"{loss}; no answers were judged"


def failure(gate_record: Mapping[str, Any], where: str) -> str:
    """The error of a run that did not pass, from `record`; `where`: the URI of gate.json."""
    rows = gate_record["scores"].get("failed_rows")
    kept = f". Transcripts of the {rows} held-out rows that failed: {where}" if rows else f". Details: {where}"
    return f"{gate_record['summary']}{kept}"
