"""An endpoint that answers as in training is accepted, one that is worse than the gate's interval allows is not."""

from __future__ import annotations

import math
from typing import Any

import pytest

from heartbeat import acceptance_sample
from heartbeat.acceptance_sample import MOST_CHANCE, SampleVerdict
from heartbeat.cases import Case, cases, expected_text
from tests.unit.test_turn_rules import ANSWER, CALL, PERSONA, ROW

RIGHT, WRONG = expected_text(ANSWER), "I am ChatGPT."


def gate(**lows: float) -> dict[str, Any]:
    """gate.json as far as it is read: the lower ends of intervals by metric."""
    return {"table": [{"metric": name, "tuned": {"value": 0.9, "low": low, "high": 1.0}} for name, low in lows.items()]}


def verdict(num_right: int, turns: int, **lows: float) -> SampleVerdict:
    texts = [RIGHT] * num_right + [WRONG] * (turns - num_right)
    return acceptance_sample.verdict([ANSWER] * turns, texts, PERSONA, gate(**lows))


def test_what_is_as_in_training_passes() -> None:
    found = verdict(22, 24, persona=0.85)
    assert found.failures == []
    assert found.summary == "24 held-out turns are answered as in training: persona 22 of 24"
    assert [set(one) for one in found.failed] == [{"row", "turn", "problems"}] * 2, "no transcript without need"


def test_what_is_far_below_the_interval_is_refused_and_shown() -> None:
    found = verdict(12, 24, persona=0.85)
    assert found.failures == [
        "of 24 held-out turns too few are right: persona 12 of 24 (the gate's interval 0.85 to 1.00); "
        "the endpoint answers worse than the same adapter did in training"
    ]
    assert len(found.failed) == 12
    assert found.failed[0]["said"] == WRONG
    assert found.failed[0]["expected"] == RIGHT
    assert any("How many goals" in line for line in found.failed[0]["transcript"])
    assert "no_maker" in found.failed[0]["problems"]["persona"]


@pytest.mark.parametrize("turns", [1, 5, 12, 24])
@pytest.mark.parametrize("low", [0.05, 0.3, 0.55, 0.87, 0.99])
def test_chance_alone_refuses_hardly_ever(turns: int, low: float) -> None:
    """An endpoint at the interval's very end, by the exact distribution."""
    refused = [right for right in range(turns + 1) if verdict(right, turns, persona=low).failures]
    assert sum(math.comb(turns, k) * low**k * (1 - low) ** (turns - k) for k in refused) < MOST_CHANCE
    assert refused == list(range(len(refused))), "more right turns are never worse"


def test_more_metrics_do_not_make_a_refusal_likelier() -> None:
    alone, many = verdict(16, 24, persona=0.85), verdict(16, 24, persona=0.85, figures=0.3, answering=0.3, language=0.3)
    assert alone.failures
    assert not many.failures


def test_a_metric_counts_where_the_gate_judged_it_and_the_row_tests_it() -> None:
    found = acceptance_sample.verdict([CALL], ["nonsense"], PERSONA, gate(validity=0.8, answering=0.8, general=0.9))
    assert [(metric.metric, metric.right, metric.turns) for metric in found.metrics] == [("validity", 0, 1)]
    untold = {"table": [{"metric": "validity", "tuned": None}]}
    assert acceptance_sample.verdict([CALL], ["nonsense"], PERSONA, untold).metrics == []


def test_silence_and_calls_of_the_base_are_refused() -> None:
    """What an adapter that is live but worse does: validity of the base where the gate saw nearly all right."""
    rows = cases([ROW] * 12)
    asked: list[Case] = [case for case in rows if case.accepted]
    lows = gate(validity=0.85, routing=0.7)
    assert acceptance_sample.verdict(asked, [""] * 12, PERSONA, lows).failures
    assert acceptance_sample.verdict(asked, ["[search(query='goals')]"] * 12, PERSONA, lows).failures
    assert not acceptance_sample.verdict(asked, [expected_text(case) for case in asked], PERSONA, lows).failures


def test_rows_that_are_too_long_for_the_endpoint_are_said_not_to_be_asked() -> None:
    found = acceptance_sample.verdict([], [], PERSONA, gate(persona=0.85))
    assert (found.failures, found.metrics) == ([], [])
    assert found.summary == "no held-out turn leaves the endpoint room for an answer, so none was asked"


def test_speed_is_of_the_calls() -> None:
    found = acceptance_sample.speed([float(n) for n in range(1, 21)], [84] * 20)
    assert found is not None
    assert (found.calls, found.p50_seconds, found.p95_seconds, found.tokens_per_second) == (20, 10.0, 19.0, 8.0)
    assert found.summary == "an answer takes 10.0 s (p50), 19.0 s (p95), 8 tokens/s, asked one by one"
    assert acceptance_sample.speed([], []) is None
