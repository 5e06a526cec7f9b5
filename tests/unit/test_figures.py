"""Figures without a source: found however they are written, and not found where a source holds them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartbeat.figures import unsupported


@pytest.mark.parametrize(
    ("answer", "source"),
    [
        ("36 games, 11 goals.", '{"gp": 36, "goals": 11}'),
        ("He has 1,246 points.", '{"points": 1246}'),
        ("Il a 1\u202f246 points.", '{"points": 1246}'),
        ("Il a 1 246 points.", "1,246 points"),
        ("A save percentage of .915", '{"save_pct": 0.915}'),
        ("Une moyenne de 2,54", '{"gaa": 2.54}'),
        ("54.3% of the draws", '{"share": 0.543}'),
        ("54.3 % of the draws", '{"pct": 54.3}'),
        ("about 54% of the draws", '{"pct": 54.3}'),
        ("0.92 rounded", '{"save_pct": 0.9153}'),
        ("in 2024-2025", "in 2024-25"),
        ("On October 12, 2026", '{"date": "2026-10-12"}'),
        ("won 4-2", '{"score": "4-2"}'),
        ("1. Suzuki\n2. Caufield", ""),
        ("In 2015 361 wins", '{"year": 2015, "wins": 361}'),
        ("No figure at all.", ""),
        ("", ""),
    ],
)
def test_a_figure_with_a_source_is_not_reported(answer: str, source: str) -> None:
    assert unsupported(answer, [source]) == []


@pytest.mark.parametrize(
    ("answer", "source", "found"),
    [
        ("36 games, 12 goals.", '{"gp": 36, "goals": 11}', ["12"]),
        ("He has 1,247 points.", '{"points": 1246}', ["1,247"]),
        (".916 on the year", '{"save_pct": 0.915}', [".916"]),
        ("56% of the draws", '{"pct": 54.3}', ["56%"]),
        ("2.55", '{"gaa": 2.54}', ["2.55"]),
        ("47 points", '{"goals": 11, "assists": 36}', ["47"]),
        ("in 2024-2026", "in 2024-25", ["2026"]),
        ("7 and 7 again", "", ["7"]),
    ],
)
def test_a_figure_without_one_is(answer: str, source: str, found: list[str]) -> None:
    assert unsupported(answer, [source]) == found


@given(st.text())
def test_a_text_is_a_source_of_its_own_figures(text: str) -> None:
    assert unsupported(text, [text]) == []
