from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartbeat import charts, held_out_loss, quality, report
from heartbeat.cases import cases, expected_text
from heartbeat.scores import measure, unscored
from tests.unit.test_turn_rules import PERSONA, ROW

EXECUTION = {"name": "a-run", "arn": "arn:aws:states:us-east-1:1:execution:HeartBeat-dev:a-run"}


class _Text(HTMLParser):
    """The page's text, and a check that what is opened is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002
        if tag not in {"meta", "line", "polyline", "br", "wbr"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in {"meta", "line", "polyline", "br", "wbr"}:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(page: str) -> str:
    parser = _Text()
    parser.feed(page)
    assert parser.open == []
    return " ".join(parser.text)


def record(**parts: Any) -> dict[str, Any]:
    return {"execution": EXECUTION, "state": {"run": {"endpoint_name": "heartbeat-dev", "deploy": True}}, **parts}


METRICS: dict[str, Any] = {
    "status": "completed",
    "steps_done": 40,
    "steps_planned": 40,
    "tokens_trained": 120000,
    "tokens_per_second": 1234.5,
    "heldout": {"rows": 30, "base_loss": 3.0, "tuned_loss": 1.5},
    "loss_curve": [[1, 3.1], [20, 2.0], [40, 1.4]],
}


def test_a_success_shows_its_figures() -> None:
    text = read(report.page(record(metrics=METRICS, gate={"passed": True, "reasons": ["it learned"]})))
    for shown in (
        "heartbeat-dev is serving",
        "1.50",
        "base 3.00, -50%",
        "1,234 tok/s",
        "Quality gate: passed",
        "it learned",
        "perplexity",
        "base 20.1",
    ):
        assert shown in text


PLANNED = {
    "instances": 1,
    "usd_per_hour": 25.25,
    "hours_per_month": 730.0,
    "usd_per_month": 18432.5,
    "scales_to_zero": False,
    "cold_start_seconds": 914.0,
    "usd_per_cold_start": 6.41,
    "instances_while_updating": 2,
}


def test_it_says_what_the_endpoint_costs() -> None:
    plan = {"serving": {"instance_type": "ml.p4d.24xlarge"}, "endpoint": PLANNED}
    always = read(report.page(record(plan=plan)))
    assert "1 ml.p4d.24xlarge An hour $25.25 A month $18,432 for 730 hours During an update 2 instances bill" in always
    assert "wake" not in always
    sleeps = read(report.page(record(plan={**plan, "endpoint": {**PLANNED, "scales_to_zero": True}})))
    assert "at most $18,432 for 730 hours; nothing while it is asleep" in sleeps
    assert "To wake it 15 min and $6.41 before the first answer" in sleeps
    unknown = {**PLANNED, "usd_per_hour": None, "usd_per_month": None}
    assert "An hour unknown" in read(report.page(record(plan={**plan, "endpoint": unknown})))
    alone = {"state": {"run": {"deploy": False}}}
    assert "What the endpoint costs" not in read(report.page({**record(plan=plan), **alone}))


def judged(tuned: list[str]) -> tuple[str, str]:
    """(HTML, text) of the page of a run whose model said these on the turns of a row."""
    held = cases([ROW])
    scores = measure(held, [""] * len(held), tuned, PERSONA).to_dict()
    figures = {"seconds": 2.0, "tokens": 40, "tokens_per_second": 20.0, "answers_cut": 3}
    asked = {"turns": len(held), "rows": 1, "heldout_rows": 4, "probes": 7, "max_new_tokens": 9}
    loss = held_out_loss.measure([60.0, 66.0], [28.0, 32.0], [20, 20])
    assert loss is not None
    metrics = {**METRICS, "heldout": {**METRICS["heldout"], **loss.to_dict()}}
    gate = quality.record(metrics, {**scores, "asked": {**asked, "base": figures, "tuned": figures}})
    page = report.page(record(metrics=METRICS, gate=json.loads(json.dumps(gate))))
    return page, read(page)


def test_the_gate_shows_bounds_routes_strata_and_transcripts() -> None:
    right = [expected_text(case) for case in cases([ROW])]
    page, text = judged(["<b>nonsense</b>", *right[1:]])
    for shown in (
        "Quality gate: did not pass",
        "exact arguments",
        "too few rows",
        "1 of 4 held-out rows and 7 general questions, at most 9 tokens each: base 2 s (20 tokens/s, 3 answers cut)",
        "Which tools were called",
        "Where it is right",
        "by language",
        "Held-out rows that failed: 1",
        "All, by line",
        "<b>nonsense</b>",
        "no call that can be read",
    ):
        assert shown in " ".join(text.split()), shown
    assert "<b>nonsense</b>" not in page
    for shown in ("at most 0.95", "perplexity 2 40", "4.48 4.06 to 4.95"):
        assert shown in " ".join(text.split()), shown
    assert right[0] in text, "what was expected, beside what was said"
    assert page.count("<details>") == 3, "the reasons in words, the rows that failed, and the one turn"


def test_a_run_without_answers_says_why_and_shows_no_table() -> None:
    gate = quality.record(METRICS, unscored("there was no time"))
    text = read(report.page(record(metrics=METRICS, gate=gate)))
    assert "no answers were scored: there was no time" in text
    assert "Which tools" not in text


def test_a_failure_says_what_to_do() -> None:
    failure = {
        "error": "PlanRefused",
        "what": "too big",
        "advice": "use less",
        "log": "here",
        "cleaned": ["job x stopped"],
    }
    text = read(report.page(record(failure=failure)))
    for shown in ("The run failed", "PlanRefused", "too big", "use less", "job x stopped"):
        assert shown in text


def test_values_are_escaped() -> None:
    answers = [{"question": "<script>alert(1)</script>", "model": "m", "text": "&", "seconds": 1.0}]
    page = report.page(record(acceptance={"passed": True, "reasons": [], "answers": answers}))
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


@given(
    st.lists(st.tuples(st.integers(0, 400), st.floats(0, 20)), min_size=2, max_size=150),
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cf", "Cs", "Co", "Cn"])),
        st.floats(0, 20),
        max_size=3,
    ),
)
def test_the_curve_stays_inside_its_picture(points: list[tuple[float, float]], marks: dict[str, float]) -> None:
    svg, _, _ = charts.loss_curve(sorted(points), marks).partition("</svg>")
    root = ET.fromstring(svg + "</svg>")
    pairs = [pair for line in root.findall("polyline") for pair in line.attrib["points"].split()]
    assert len(pairs) in (len(points), 2 * len(points))
    for pair in pairs:
        x, y = map(float, pair.split(","))
        assert 0 <= x <= 720
        assert 0 <= y <= 280


def test_a_long_curve_is_smoothed_and_a_slope_stays_where_it_is() -> None:
    def lines(losses: list[float]) -> dict[str, list[float]]:
        svg, _, _ = charts.loss_curve(list(enumerate(losses)), {}).partition("</svg>")
        return {
            line.attrib["class"]: [float(pair.split(",")[1]) for pair in line.attrib["points"].split()]
            for line in ET.fromstring(svg + "</svg>").findall("polyline")
        }

    slope = lines([4 - step / 200 for step in range(400)])
    assert slope["curve"] == pytest.approx(slope["steps"], abs=0.1)
    noisy = lines([2 + (-1) ** step for step in range(400)])
    inner = noisy["curve"][20:-20]
    assert max(inner) - min(inner) < 0.2 * (max(noisy["steps"]) - min(noisy["steps"]))
    assert set(lines([2.0, 1.0, 1.5])) == {"curve"}
