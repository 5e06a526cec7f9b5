"""One verdict by the loss and by what was said: both must pass."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import pytest

from heartbeat import held_out_loss, quality
from heartbeat.score_gate import Bound, Rules
from heartbeat.scores import summarise, unscored

RULES = Rules(bounds={"routing": Bound(at_least=0.7)})


def metrics(tuned: float) -> dict[str, Any]:
    """Of thirty rows of thirty tokens, all alike; the base's loss is 3."""
    score = held_out_loss.measure([90.0] * 30, [30 * tuned] * 30, [30] * 30)
    assert score is not None
    counts = {"rows": 30, "supervised_tokens": 900}
    return {"steps_done": 5, "heldout": {**counts, "base_loss": 3.0, "tuned_loss": tuned, **score.to_dict()}}


LEARNED, NOT_LEARNED = metrics(1.0), metrics(3.0)


def scores(right: int) -> dict[str, Any]:
    tallies = [(0, i < right, 1) for i in range(100)]
    return {
        "metrics": {"routing": asdict(summarise(tallies))},
        "failed_rows": [{"row": f"{i}", "line": i + 3, "metrics": ["routing"]} for i in range(100 - right)],
        "failures": [{"row": "a"}],
    }


@pytest.mark.parametrize(
    ("metrics", "found", "reasons"),
    [
        (LEARNED, scores(95), ["held-out loss 1.00", "routing 0.95"]),
        (NOT_LEARNED, scores(95), ["held-out loss 3.00"]),
        (LEARNED, scores(20), ["routing 0.20"]),
        (NOT_LEARNED, scores(20), ["held-out loss 3.00", "routing 0.20"]),
        (LEARNED, {}, ["routing is missing"]),
        ({}, scores(95), ["the number of held-out rows is missing"]),
        (LEARNED, unscored("no time"), ["no answers were scored: no time"]),
    ],
)
def test_both_must_pass_and_only_what_failed_is_said(
    metrics: dict[str, Any], found: dict[str, Any], reasons: list[str]
) -> None:
    judged = quality.verdict(metrics, found, RULES)
    assert judged.passed == (metrics is LEARNED and len(found.get("failed_rows", ())) == 5)
    assert [any(reason.startswith(begin) for reason in judged.reasons) for begin in reasons] == [True] * len(reasons)
    if judged.passed or metrics:
        assert len(judged.reasons) == len(reasons)


def test_the_record_has_figures_of_both_and_the_transcripts() -> None:
    found = quality.record(LEARNED, scores(95), RULES)
    assert found["passed"]
    assert found["summary"] == "held-out loss 1.00, base 3.00; 1 of 1 metrics met their bounds"
    assert (found["figures"]["loss_ratio"], found["figures"]["routing_tuned"]) == (pytest.approx(1 / 3), 0.95)
    assert found["scores"]["failures"] == [{"row": "a"}]
    loss, perplexity = found["loss"]["loss"], found["loss"]["perplexity"]
    assert (loss["rows"], loss["tokens"], loss["max_ratio"], loss["outcome"]) == (30, 900, 0.95, "met")
    assert loss["ratio"] == pytest.approx({"value": 1 / 3, "low": 1 / 3, "high": 1 / 3})
    assert perplexity["base"]["high"] == pytest.approx(math.exp(3))
    assert quality.record({}, {}, RULES)["loss"] == {}


def test_a_failure_says_why_and_where_the_transcripts_are() -> None:
    said = quality.failure(quality.record(LEARNED, scores(20), RULES), "s3://b/gate.json")
    assert said.startswith("missed: routing 0.20 (0.1")
    assert "; needs 0.7)" in said
    where = "80 held-out rows failed (lines 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, …); all of them, and transcripts of 1 of"
    assert said.endswith(f". {where} their turns: s3://b/gate.json")
    late = quality.failure(quality.record(LEARNED, unscored("no time"), RULES), "s3://b/gate.json")
    assert late == "no answers were scored: no time. Details: s3://b/gate.json"


def test_a_failure_names_the_loss_and_what_could_not_be_told() -> None:
    rules = Rules(bounds={"routing": Bound(at_least=0.7, min_gain=0.5), "persona": Bound(at_least=0.93)})
    both = {"metrics": {**scores(95)["metrics"], "persona": scores(95)["metrics"]["routing"]}}
    said = quality.record(NOT_LEARNED, both, rules)["summary"]
    assert said.startswith(
        "held-out loss 3.00 against base 3.00 (ratio 1.00, 95% interval 1.00 to 1.00, needs at most 0.95)"
    )
    assert said.endswith("; needs 0.93)")
    assert "too few rows to tell: persona 0.95 (0." in said
    assert "routing" not in said


def test_a_failure_is_short_however_much_failed() -> None:
    many = Rules(bounds={name: Bound(at_least=0.7) for name in ("routing", "answering", "validity")})
    found = {"metrics": {name: asdict(summarise([(0, 0, 1)] * 50)) for name in many.bounds}}
    record = quality.record({}, {**found, "unscored": "x" * 5000}, many)
    assert len(quality.failure(record, "s3://b/gate.json")) < 1100
