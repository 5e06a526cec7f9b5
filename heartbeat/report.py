"""The page about one run: what was asked, what it was going to cost, what it did, what passed, what serves.

One HTML file without scripts and without anything fetched; every value is escaped.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from heartbeat import charts, durations, report_scores

PARTS = ("plan", "dataset", "metrics", "gate", "acceptance")
"""Names of the JSON files in a run's folder that the page is made of."""

_PAGE = Template((Path(__file__).parent / "report.html.template").read_text())

Record = Mapping[str, Any]
_LARGEST_LOSS = 20.0  # more than any vocabulary: guessing at random costs ln(202,048), 12.2


def page(record: Record) -> str:
    """The report of `record`: execution, state, failure, and one entry for each of PARTS (None where the run did
    not come that far)."""
    failure = record.get("failure")
    sections = [
        _failure(failure) if failure else "",
        _figures(record),
        _gate(record.get("gate")),
        _learning(record.get("metrics")),
        _acceptance(record.get("acceptance")),
        _plan(record.get("plan")),
        _endpoint(record),
        _dataset(record.get("dataset")),
        _reproduce(record),
    ]
    title = "The run failed" if failure else _success_title(record)
    return _PAGE.substitute(
        title=_text(title),
        tone="bad" if failure else "good",
        name=_text(record["execution"]["name"]),
        started=_text(_state(record).get("started", "")),
        sections="\n".join(section for section in sections if section),
    )


def _state(record: Record) -> Mapping[str, Any]:
    return record.get("state") or {}


def _success_title(record: Record) -> str:
    run = _state(record).get("run") or {}
    return f"{run.get('endpoint_name')} is serving" if run.get("deploy", True) else "The adapter passed"


def _failure(failure: Record) -> str:
    cleaned = failure.get("cleaned") or ["nothing was left that bills"]
    rows = [
        ("What happened", failure.get("what")),
        ("What to do", failure.get("advice")),
        ("Log", failure.get("log")),
        ("Cleaned up", "; ".join(cleaned)),
    ]
    return _section(str(failure.get("error")), _pairs(rows))


def _figures(record: Record) -> str:
    """The few numbers that one looks for first."""
    metrics, training = record.get("metrics") or {}, _state(record).get("training") or {}
    heldout = metrics.get("heldout") or {}
    base, tuned = heldout.get("base_loss"), heldout.get("tuned_loss")
    cards = []
    if base and tuned:
        cards.append(("held-out loss", f"{tuned:.2f}", f"base {base:.2f}, {_percent(tuned / base - 1)}"))
        cards.append(("perplexity", _perplexity(tuned), f"base {_perplexity(base)}; e to the loss"))
    cards += _routing(record.get("gate") or {})
    if metrics.get("steps_done"):
        early = " (stopped early)" if training.get("stopped_early") else ""
        cards.append(("steps", f"{metrics['steps_done']:g}", f"of {metrics.get('steps_planned', 0):g}{early}"))
    if metrics.get("tokens_per_second"):
        tokens = f"{metrics.get('tokens_trained', 0):,.0f} tokens"
        cards.append(("speed", f"{metrics['tokens_per_second']:,.0f} tok/s", tokens))
    if training.get("billable_seconds"):
        cards.append(
            ("billed", durations.exactly(training["billable_seconds"]), str(training.get("instance_type", "")))
        )
    body = "".join(
        f'<div class="card"><div class="label">{_text(label)}</div><div class="value">{_text(value)}</div>'
        f'<div class="note">{_text(note)}</div></div>'
        for label, value, note in cards
    )
    return f'<div class="cards">{body}</div>' if cards else ""


def _routing(gate: Record) -> list[tuple[str, str, str]]:
    figures = gate.get("figures") or {}
    base, tuned = figures.get("routing_base"), figures.get("routing_tuned")
    if base is None or tuned is None:
        return []
    return [("routing", f"{100 * tuned:.0f}%", f"base {100 * base:.0f}%, right tools called")]


def _learning(metrics: Record | None) -> str:
    curve = (metrics or {}).get("loss_curve") or []
    if len(curve) < 2:
        return ""
    heldout = (metrics or {}).get("heldout") or {}
    marks = {
        name: heldout[key]
        for name, key in (("base, held out", "base_loss"), ("tuned, held out", "tuned_loss"))
        if heldout.get(key)
    }
    return _section("Learning", charts.loss_curve([(float(x), float(y)) for x, y in curve], marks))


def _gate(gate: Record | None) -> str:
    return "\n".join(_section(title, body) for title, body in report_scores.sections(gate)) if gate else ""


def _acceptance(found: Record | None) -> str:
    if not found:
        return ""
    verdict = "accepted" if found.get("passed") else "not accepted"
    rows = [
        [answer["question"], answer["model"], answer["text"] or answer.get("problem"), f"{answer['seconds']:.1f} s"]
        for answer in found.get("answers") or []
    ]
    table = _table(["question", "answers as", "answer", "time"], rows) if rows else ""
    return _section(f"Endpoint: {verdict}", _list(found.get("reasons") or []) + table + _sample(found.get("sample")))


def _sample(sample: Record | None) -> str:
    """What the endpoint said to held-out rows, beside what the gate found."""
    if not sample:
        return ""
    rows = [
        [
            item["metric"].replace("_", " "),
            f"{item['right']} of {item['turns']}",
            f"{item['low']:.2f} to {item['high']:.2f}",
            "too few" if item["refused"] else "as expected",
        ]
        for item in sample["metrics"]
    ]
    wrong = report_scores.failures(sample["failed"]) if any(item["refused"] for item in sample["metrics"]) else ""
    head = ["held-out turns that are right", "on the endpoint", "the gate's interval", "verdict"]
    return (_table(head, rows) if rows else "") + wrong


def _plan(plan: Record | None) -> str:
    if not plan:
        return ""
    rows = [
        [
            item.get("instance_type"),
            item.get("mode"),
            _number(item.get("gpu_memory_needed_gib"), "{:.1f} GiB"),
            "unknown" if item.get("hours") is None else durations.about(item["hours"] * 3600),
            _number(item.get("usd_on_demand"), "${:,.2f}") + (" (old price)" if item.get("price_is_old") else ""),
            item.get("confidence"),
        ]
        for item in plan.get("candidates") or []
    ]
    body = _table(["instance", "mode", "GPU memory, each", "time", "on demand", "figures are"], rows) if rows else ""
    rejected = [
        f"{item.get('instance_type')}: {'; '.join(item.get('reasons') or [])}" for item in plan.get("rejected") or []
    ]
    refusal, as_of = plan.get("refusal"), plan.get("prices_as_of")
    notes = [
        *([refusal] if refusal else []),
        *(plan.get("alternatives") or []),
        *rejected,
        *(plan.get("warnings") or []),
        *([f"prices: {as_of}"] if as_of else []),
    ]
    return _section("Plan", body + _list(notes))


def _endpoint(record: Record) -> str:
    """What it costs to keep the endpoint; nothing of a run that makes none."""
    plan, run = record.get("plan") or {}, _state(record).get("run") or {}
    serving, planned = plan.get("serving") or {}, plan.get("endpoint")
    if not planned or not serving.get("instance_type") or not run.get("deploy", True):
        return ""
    hour, month = _number(planned["usd_per_hour"], "${:,.2f}"), _number(planned["usd_per_month"], "${:,.0f}")
    old = " (old price)" if serving.get("price_is_old") else ""
    always = f"{month} for {planned['hours_per_month']:,.0f} hours{old}"
    rows = [
        ("Instances", f"{planned['instances']} {serving['instance_type']}"),
        ("An hour", hour + old),
        ("A month", f"at most {always}; nothing while it is asleep" if planned["scales_to_zero"] else always),
        ("During an update", f"{planned['instances_while_updating']} instances bill"),
    ]
    if planned["scales_to_zero"]:
        waking = durations.about(planned["cold_start_seconds"])
        cost = _number(planned["usd_per_cold_start"], "${:,.2f}")
        rows.append(("To wake it", f"{waking} and {cost} before the first answer, computed from assumed rates"))
    return _section("What the endpoint costs", _pairs(rows))


def _dataset(dataset: Record | None) -> str:
    stats = (dataset or {}).get("stats")
    if not stats:
        return ""
    figures = {name: value for name, value in stats.items() if not isinstance(value, Mapping | list)}
    rows = [(name.replace("_", " "), value) for name, value in figures.items()]
    tools = ", ".join(f"{name} ({count})" for name, count in (stats.get("tools") or {}).items())
    return _section("Dataset", _pairs([*rows, ("tool calls", tools or "none")]))


def _reproduce(record: Record) -> str:
    """Everything that one needs to run this again, as it was resolved."""
    plan, state = record.get("plan") or {}, _state(record)
    shown = {
        "execution": record["execution"].get("arn"),
        "request": state.get("run"),
        "hyperparameters": plan.get("hyperparameters"),
        "where they came from": plan.get("hyperparameter_sources"),
        "tried without capacity": state.get("tried"),
        "base model": plan.get("base_model"),
        "serving": plan.get("serving"),
    }
    text = json.dumps({name: value for name, value in shown.items() if value}, indent=1, default=str)
    return _section("To run it again", f"<pre>{_text(text)}</pre>")


def _section(title: str, body: str) -> str:
    return f"<section><h2>{_text(title)}</h2>{body}</section>"


def _pairs(rows: Iterable[tuple[str, Any]]) -> str:
    body = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in rows if value not in (None, ""))
    return f"<dl>{body}</dl>"


def _list(items: Sequence[Any]) -> str:
    return "<ul>" + "".join(f"<li>{_text(item)}</li>" for item in items) + "</ul>" if items else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    top = "".join(f"<th>{_text(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _text(value: Any) -> str:
    return html.escape("" if value is None else str(value))


def _number(value: float | None, form: str) -> str:
    return "unknown" if value is None else form.format(value)


def _perplexity(loss: float) -> str:
    """How many tokens are as likely as the right one, on average."""
    return f"{math.exp(loss):,.1f}" if loss < _LARGEST_LOSS else "huge"


def _percent(change: float) -> str:
    return f"{100 * change:+.0f}%"
