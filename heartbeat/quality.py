"""The quality gate as a whole: one verdict by the held-out loss (`heartbeat.gate`) and by what was said
(`heartbeat.score_gate`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from heartbeat import gate, held_out_loss, score_gate
from heartbeat.gate import Verdict
from heartbeat.score_gate import Rules

_SHOWN_CHARACTERS = 1000
_SHOWN_LINES = 10


def verdict(metrics: Mapping[str, Any], scores: Mapping[str, Any], rules: Rules | None = None) -> Verdict:
    """Judges a run by its metrics.json and its scores.json: both must pass. Never raises for what is missing."""
    rules = rules or score_gate.load()
    both = (gate.verdict(metrics, rules.loss), score_gate.verdict(scores, rules))
    passed = all(one.passed for one in both)
    # What failed, or else all that passed.
    reasons = tuple(reason for one in both if passed or not one.passed for reason in one.reasons)
    return Verdict(passed=passed, reasons=reasons, figures={**both[0].figures, **both[1].figures})


def record(metrics: Mapping[str, Any], scores: Mapping[str, Any], rules: Rules | None = None) -> dict[str, Any]:
    """What gate.json holds: the verdict, loss and perplexity, a table of the metrics, the scores with transcripts."""
    rules = rules or score_gate.load()
    found = verdict(metrics, scores, rules)
    table = score_gate.table(scores, rules)
    return {
        **found.to_dict(),
        "summary": summary(found, table),
        "loss": _loss(metrics, rules),
        "table": table,
        "scores": dict(scores),
    }


def _loss(metrics: Mapping[str, Any], rules: Rules) -> dict[str, Any]:
    """Loss and perplexity with their intervals, and what became of the bound; empty where they were not measured."""
    loss, perplexity = (dict(held_out_loss.of_metrics(metrics, name)) for name in ("loss", "perplexity"))
    if not loss or not perplexity:
        return {}
    bound = {"max_ratio": rules.loss.max_ratio, "outcome": gate.outcome(metrics, rules.loss)}
    return {"loss": {**loss, **bound}, "perplexity": perplexity}


def summary(found: Verdict, table: Sequence[Mapping[str, Any]]) -> str:
    """The verdict in a line, at most some 1,000 characters: what failed, or how many metrics met their bounds."""
    if found.passed:
        loss = f"held-out loss {found.figures['tuned_loss']:.2f}, base {found.figures['base_loss']:.2f}"
        met = sum(row["outcome"] == "met" for row in table)
        return f"{loss}; {met} of {len(table)} metrics met their bounds" if table else f"{loss}; no answers were judged"
    judged = [row for row in table if row["tuned"] and row["difference"]]
    named = {row["metric"] for row in judged}
    # Of the metrics a few words each, the table has the rest; of the loss, and of what is not there, all.
    parts = [reason for reason in found.reasons if reason.split(" ")[0] not in named]
    for outcome, words in (("missed", "missed"), ("too few rows", "too few rows to tell")):
        short = [
            _short(row) for row in judged if row["outcome"] == outcome and (outcome == "missed" or row["required"])
        ]
        parts += [f"{words}: {', '.join(short)}"] if short else []
    text = "; ".join(parts)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


def _short(row: Mapping[str, Any]) -> str:
    tuned, gain = row["tuned"], row["difference"]
    needs = [f"{row['at_least']:g}"] if row["at_least"] is not None else []
    shown = f"{row['metric']} {tuned['value']:.2f} ({tuned['low']:.2f} to {tuned['high']:.2f}"
    if row["min_gain"] is not None:
        shown += f", gain {gain['value']:+.2f}"
        needs.append(f"a gain of {row['min_gain']:+g}")
    return f"{shown}; needs {' and '.join(needs)})"


def failure(gate_record: Mapping[str, Any], where: str) -> str:
    """The error of a run that did not pass, from `record`; `where`: the URI of gate.json."""
    scores = gate_record["scores"]
    rows, shown = scores.get("failed_rows") or (), scores.get("failures") or ()
    if not rows:
        return f"{gate_record['summary']}. Details: {where}"
    kept = f"all of them, and transcripts of {len(shown)} of their turns: {where}"
    return f"{gate_record['summary']}. {len(rows)} held-out rows failed{_lines(rows)}; {kept}"


def _lines(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [str(row["line"]) for row in rows if row["line"] is not None]
    shown = ", ".join(lines[:_SHOWN_LINES] + (["…"] if len(lines) > _SHOWN_LINES else []))
    return f" (lines {shown})" if lines else ""
