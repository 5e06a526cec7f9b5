from __future__ import annotations

import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from heartbeat import charts, report

EXECUTION = {"name": "a-run", "arn": "arn:aws:states:us-east-1:1:execution:HeartBeat-dev:a-run"}


class _Text(HTMLParser):
    """The page's text, and a check that what is opened is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002
        if tag not in {"meta", "line", "polyline"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in {"meta", "line", "polyline"}:
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


METRICS = {
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
    ):
        assert shown in text


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
    st.lists(st.tuples(st.integers(0, 400), st.floats(0, 20)), min_size=2, max_size=50),
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cf", "Cs", "Co", "Cn"])),
        st.floats(0, 20),
        max_size=3,
    ),
)
def test_the_curve_stays_inside_its_picture(points: list[tuple[float, float]], marks: dict[str, float]) -> None:
    svg, _, _ = charts.loss_curve(sorted(points), marks).partition("</svg>")
    root = ET.fromstring(svg + "</svg>")
    line = root.find("polyline")
    assert line is not None
    for pair in line.attrib["points"].split():
        x, y = map(float, pair.split(","))
        assert 0 <= x <= 720
        assert 0 <= y <= 280
