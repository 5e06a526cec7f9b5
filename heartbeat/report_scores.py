"""The part of a run's page that shows what base and tuned model said: bounds met and missed, routes, failed rows.

From gate.json (`heartbeat.quality.record`). Every value is escaped; a part that is not there is left out.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from heartbeat.scores import GENERAL
from heartbeat.turn_rules import METRICS

Record = Mapping[str, Any]

_MARKS = {"met": ("good", "met"), "missed": ("bad", "missed"), "too few rows": ("unsure", "too few rows")}
_WIDTH, _HEIGHT, _PAD = 150, 22, 6


def sections(gate: Record) -> Iterator[tuple[str, str]]:
    """(title, HTML) of each section that there is something for."""
    scores = gate.get("scores") or {}
    reasons = _list(gate.get("reasons") or [])
    table = ""
    if gate.get("table"):
        table = _metrics(gate["table"]) + _asked(scores.get("asked") or {})
        reasons = f"<details><summary>In words</summary>{reasons}</details>"
    judged = _summary(gate) + _loss(gate.get("loss") or {}) + table + reasons
    yield f"Quality gate: {'passed' if gate.get('passed') else 'did not pass'}", judged
    if any((scores.get("confusion") or {}).values()):
        yield "Which tools were called", _confusion(scores["confusion"])
    if scores.get("strata"):
        yield "Where it is right", _strata(scores["strata"])
    if scores.get("failed_rows"):
        shown = scores["failures"]
        note = f'<p class="note">Transcripts of {len(shown)} turns, every metric that failed among them.</p>'
        rows = _failed_rows(scores["failed_rows"])
        yield f"Held-out rows that failed: {len(scores['failed_rows'])}", rows + note + failures(shown)


def _summary(gate: Record) -> str:
    return f"<p>{_text(gate['summary'])}</p>" if gate.get("passed") and gate.get("summary") else ""


def _loss(loss: Record) -> str:
    """Loss and perplexity: a table of their own, since less is better and no turn is right or wrong."""
    body = ""
    for name, row in loss.items():
        needs, verdict = "", ""
        if row.get("ratio"):
            kind, words = _MARKS[row["outcome"]]
            needs, verdict = f"at most {row['max_ratio']:g}", f'<span class="pill {kind}">{_text(words)}</span>'
        cells = [f"<b>{_text(name)}</b>", f"{row['rows']:,}", f"{row['tokens']:,}"]
        cells += [*(_with_interval(row.get(part)) for part in ("base", "tuned", "ratio")), needs, verdict]
        body += "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    if not body:
        return ""
    key = '<p class="note">Of held-out rows, a mean over the tokens that the assistant says, with 95% intervals.</p>'
    head = ("held out", "rows", "tokens", "base", "tuned", "tuned / base", "needs", "verdict")
    return _table(head, body, "metrics") + key


def _metrics(table: Sequence[Record]) -> str:
    head = ("metric", "turns", "base", "tuned", "", "gain", "needs", "verdict")
    body = "".join(_metric(row) for row in table)
    key = (
        '<p class="note">Shares of turns that are right, with 95% intervals of the tuned model and of the gain. In the '
        "picture, 0 to 1: hollow the base, filled the tuned model and its interval, the tick what it needs.</p>"
    )
    return _table(head, body, "metrics") + key


def _metric(row: Record) -> str:
    base, tuned, gain = (row.get(part) for part in ("base", "tuned", "difference"))
    needs = [
        *([f"{row['at_least']:.2f}"] if row.get("at_least") is not None else []),
        *([f"gain {row['min_gain']:+.2f}"] if row.get("min_gain") is not None else []),
    ]
    kind, words = _MARKS[row["outcome"]]
    if row["outcome"] != "met" and row.get("required") is False:
        kind, words = "plain", f"{words}, not required"
    cells = [
        f"<b>{_text(_words(row['metric']))}</b>",
        _text(row.get("turns")),
        f"{base['value']:.2f}" if base else "",
        _with_interval(tuned),
        _picture(base, tuned, row.get("at_least")) if base and tuned else "",
        _with_interval(gain, "+"),
        "<br>".join(needs),
        f'<span class="pill {kind}">{_text(words)}</span>',
    ]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _with_interval(found: Record | None, sign: str = "") -> str:
    if not found:
        return ""
    value, low, high = (f"{found[part]:{sign}.2f}" for part in ("value", "low", "high"))
    return f'<b>{value}</b><br><span class="range">{low} to {high}</span>'


def _picture(base: Record, tuned: Record, needed: float | None) -> str:
    def x(share: float) -> str:
        return f"{_PAD + share * (_WIDTH - 2 * _PAD):.1f}"

    middle = _HEIGHT / 2
    tick = (
        "" if needed is None else f'<line class="needs" x1="{x(needed)}" x2="{x(needed)}" y1="2" y2="{_HEIGHT - 2}"/>'
    )
    return (
        f'<svg class="shares" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="base {base["value"]:.2f}, tuned {tuned["value"]:.2f}">'
        f'<line class="axis" x1="{x(0)}" x2="{x(1)}" y1="{middle}" y2="{middle}"/>{tick}'
        f'<line class="interval" x1="{x(tuned["low"])}" x2="{x(tuned["high"])}" y1="{middle}" y2="{middle}"/>'
        f'<circle class="of-base" cx="{x(base["value"])}" cy="{middle}" r="4"/>'
        f'<circle class="of-tuned" cx="{x(tuned["value"])}" cy="{middle}" r="4.5"/></svg>'
    )


def _asked(asked: Record) -> str:
    if not asked.get("base") or not asked.get("tuned"):
        return ""
    speed = ", ".join(
        f"{who} {asked[who]['seconds']:,.0f} s ({asked[who]['tokens_per_second']:,.0f} tokens/s, "
        f"{asked[who]['answers_cut']} answers cut)"
        for who in ("base", "tuned")
    )
    return (
        f'<p class="note">{asked["turns"]} turns of {asked["rows"]} of {asked["heldout_rows"]} held-out rows and '
        f"{asked['probes']} general questions, at most {asked['max_new_tokens']} tokens each: {speed}.</p>"
    )


def _confusion(confusion: Mapping[str, Mapping[str, Mapping[str, int]]]) -> str:
    """Both matrices over the same routes, so that they can be compared at a glance."""
    expected = sorted({route for one in confusion.values() for route in one})
    taken = [*expected, *sorted({to for one in confusion.values() for row in one.values() for to in row} - {*expected})]
    tables = "".join(
        f"<div><h3>{_text(who)}</h3>{_matrix(confusion.get(who) or {}, expected, taken)}</div>"
        for who in ("base", "tuned")
    )
    note = '<p class="note">Rows: what the row calls. Columns: what the model called. The outlined cells are right.</p>'
    return f'<div class="pair">{tables}</div>{note}'


def _matrix(counts: Mapping[str, Mapping[str, int]], expected: Sequence[str], taken: Sequence[str]) -> str:
    body = ""
    for route in expected:
        row = counts.get(route) or {}
        whole = sum(row.values()) or 1
        cells = "".join(
            f'<td class="cell{" right" if to == route else ""}" style="--share:{row.get(to, 0) / whole:.3f}">'
            f"{row.get(to, 0) or ''}</td>"
            for to in taken
        )
        body += f"<tr><th>{_name(route)}</th>{cells}</tr>"
    return _table(["", *taken], body, "matrix")


def _strata(strata: Mapping[str, Mapping[str, Mapping[str, Sequence[int]]]]) -> str:
    found = {name for kind in strata.values() for counts in kind.values() for name in counts}
    metrics = [name for name in METRICS if name in found and name != GENERAL]
    body = ""
    for kind, each in strata.items():
        body += f'<tr><th class="kind" colspan="{len(metrics) + 1}">by {_text(kind)}</th></tr>'
        for stratum, counts in each.items():
            cells = "".join(_share(counts.get(name)) for name in metrics)
            body += f"<tr><th>{_name(stratum)}</th>{cells}</tr>"
    note = '<p class="note">Share of turns that the tuned model gets right; in brackets the base, then the turns.</p>'
    return _table(["", *metrics], body, "strata") + note


def _share(counts: Sequence[int] | None) -> str:
    if not counts:
        return "<td></td>"
    turns, base, tuned = counts
    return (
        f'<td class="cell" style="--share:{tuned / turns:.3f}"><b>{100 * tuned / turns:.0f}%</b><br>'
        f'<span class="range">({100 * base / turns:.0f}%) {turns}</span></td>'
    )


def _failed_rows(rows: Sequence[Record]) -> str:
    """All of them, with the lines that they stand on in their file."""
    body = "".join(
        f"<tr><td>{_text(row['line'])}</td><td>{_text(row['row'])}</td>"
        f"<td>{_text(', '.join(map(_words, row['metrics'])))}</td></tr>"
        for row in rows
    )
    return f"<details><summary>All, by line</summary>{_table(('line', 'row', 'failed'), body, 'metrics')}</details>"


def failures(turns: Sequence[Record]) -> str:
    """What was wrong with each of these turns, and what was said before, with what the row has beside it."""
    return "".join(_failure(one) for one in turns)


def _failure(one: Record) -> str:
    problems = "".join(
        f"<li><b>{_text(_words(name))}</b>: {_text(problem)}</li>" for name, problem in one["problems"].items()
    )
    told = "".join(f"<li>{_text(line)}</li>" for line in one["transcript"])
    said = "".join(
        f'<dt>{title}</dt><dd class="said">{_text(one.get(key)) or "<i>nothing</i>"}</dd>'
        for key, title in (("expected", "the row"), ("base", "base"), ("tuned", "tuned"), ("said", "the endpoint"))
        if key in one
    )
    names = ", ".join(_words(name) for name in one["problems"])
    return (
        f"<details><summary>row {_text(one['row'])}, message {_text(one['turn'])}: {_text(names)}</summary>"
        f'<ul>{problems}</ul><ol class="told">{told}</ol><dl>{said}</dl></details>'
    )


def _table(head: Sequence[str], body: str, kind: str) -> str:
    top = "".join(f"<th>{_name(name)}</th>" for name in head)
    return f'<div class="scroll"><table class="{kind}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _list(items: Sequence[Any]) -> str:
    return "<ul>" + "".join(f"<li>{_text(item)}</li>" for item in items) + "</ul>" if items else ""


def _words(name: str) -> str:
    """A metric's name in words. Tools' names keep their underscores."""
    return name.replace("_", " ") if name in METRICS else name


def _name(name: str) -> str:
    """As HTML, with places where a long name may be broken."""
    return _text(_words(name)).replace("_", "_<wbr>")


def _text(value: Any) -> str:
    return html.escape("" if value is None else str(value))
