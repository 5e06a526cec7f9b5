"""The chart of a plan: what it shows lies where it belongs, and labels can be read."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from xml.etree import ElementTree

import pytest

from heartbeat import charts
from heartbeat.charts import Run

SVG = "{http://www.w3.org/2000/svg}"


def run(name: str, hours: float, usd: float, *, fits: bool = True, chosen: bool = False) -> Run:
    low, high = hours * 0.7, hours * 1.6
    return Run(
        name=name, detail="a few words", hours=hours, usd=usd, hours_low=low, hours_high=high, fits=fits, chosen=chosen
    )


RUNS = [
    run("ml.one", 2.0, 60.0, chosen=True),
    run("ml.two", 2.1, 62.0),
    run("ml.three", 1.9, 58.0),
    run("ml.four", 2.0, 61.0, fits=False),
    run("ml.five", 16.0, 240.0, fits=False),
]


def drawn(
    runs: list[Run] = RUNS, limit_hours: float = 8.0, budget_usd: float | None = 100.0, absent: Sequence[str] = ()
) -> ElementTree.Element:
    text = charts.hours_and_dollars(
        runs, title="A <title>", subtitle="and & more", limit_hours=limit_hours, budget_usd=budget_usd, absent=absent
    )
    return ElementTree.fromstring(text)


def circle(root: ElementTree.Element, name: str) -> tuple[float, float]:
    for group in root.iter(f"{SVG}g"):
        if group.findtext(f"{SVG}text") == name:
            (dot,) = (found for found in group.iter(f"{SVG}circle") if found.get("class") == "dot")
            return float(dot.get("cx", "")), float(dot.get("cy", ""))
    raise AssertionError(name)


def test_twice_the_hours_are_as_far_wherever_they_are() -> None:
    root = drawn()
    (x1, y1), (x2, y2) = circle(root, "ml.one"), circle(root, "ml.five")
    (a, _), (b, _) = circle(root, "ml.three"), circle(root, "ml.two")
    assert (x2 - x1) / math.log(8) == pytest.approx((b - a) / math.log(2.1 / 1.9), rel=0.02)
    assert y2 < y1  # dearer is higher


def test_the_clock_and_the_budget_part_what_they_should() -> None:
    root = drawn()
    lines = [line for line in root.iter(f"{SVG}line") if line.get("class") == "limit"]
    (clock,) = (float(line.get("x1", "")) for line in lines if line.get("x1") == line.get("x2"))
    (budget,) = (float(line.get("y1", "")) for line in lines if line.get("y1") == line.get("y2"))
    (x1, y1), (x2, y2) = circle(root, "ml.one"), circle(root, "ml.five")
    assert x1 < clock < x2
    assert y2 < budget < y1
    assert sum(line.get("class") == "limit" for line in drawn(budget_usd=None).iter(f"{SVG}line")) == 1


def test_labels_lie_on_no_other_and_inside_the_picture() -> None:
    placed = charts._place_labels([(300.0 + 5 * n, 300.0 + 3 * n, 110.0) for n in range(8)])
    for (x1, y1), (x2, y2) in itertools.combinations(placed, 2):
        assert abs(x1 - x2) >= 110 or abs(y1 - y2) >= charts._LABEL_HEIGHT
    for x, y in charts._place_labels([(950.0, 110.0, 110.0), (75.0, 480.0, 110.0)]):
        assert 0 < x < charts._PLAN_WIDTH - 110
        assert 0 < y < charts._PLAN_HEIGHT - charts._LABEL_HEIGHT


def test_one_run_alone_can_be_drawn() -> None:
    assert circle(drawn([run("ml.one", 8.0, 60.0)], budget_usd=None), "ml.one")


def test_a_budget_far_above_all_does_not_press_them_together() -> None:
    root = drawn([run("ml.one", 1.0, 8.0), run("ml.five", 2.0, 40.0)], budget_usd=100_000.0)
    heights = [circle(root, name)[1] for name in ("ml.one", "ml.five")]
    room = charts._PLAN_HEIGHT - charts._PLAN_BOTTOM - charts._PLAN_TOP
    assert heights[0] - heights[1] > room / 3
    texts = [element.text or "" for element in root.iter(f"{SVG}text")]
    assert "budget $100,000, above this chart" in texts


def test_dollars_have_their_commas_and_what_is_absent_is_named() -> None:
    names = [f"ml.{n} (no bf16)" for n in range(6)]
    root = drawn([run("ml.one", 1.0, 900.0), run("ml.two", 9.0, 9000.0)], budget_usd=None, absent=names)
    texts = [element.text or "" for element in root.iter(f"{SVG}text")]
    assert "$1,000" in texts
    assert any(text.startswith("not here: ml.0 (no bf16)") and text.endswith(" and 2 more") for text in texts)
