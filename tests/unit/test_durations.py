"""Durations as a person says them."""

from __future__ import annotations

import pytest

from heartbeat.durations import about, span


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(1080, 3240, "18-54 min"), (2280, 6120, "38 min-1.7 h"), (4000, 7300, "1.1-2.0 h"), (5, 30, "5-30 s")],
)
def test_a_span_says_its_unit_once(low: float, high: float, said: str) -> None:
    assert span(low, high) == said


def test_many_hours_have_their_commas() -> None:
    assert about(111_949.7 * 3600) == "111,949.7 h"
