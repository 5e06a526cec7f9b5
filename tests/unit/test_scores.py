"""Shares, intervals, confusion and failures of models that said known things."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heartbeat.cases import cases, expected_text
from heartbeat.scores import MAX_FAILURES, Metric, Probe, Scores, measure, summarise
from heartbeat.turn_rules import METRICS, NO_TOOL
from tests.unit.test_turn_rules import ANSWER, CALL, GOOD, PERSONA, ROW, says, user

Tallies = list[tuple[int, int, int]]
TALLIES = st.lists(
    st.integers(1, 4).flatmap(lambda turns: st.tuples(st.integers(0, turns), st.integers(0, turns), st.just(turns))),
    min_size=1,
    max_size=30,
)


def low(metric: Metric, part: str = "tuned") -> float:
    return float(getattr(metric, part).low)


def run(tuned: list[str], count: int = 1, max_failures: int = MAX_FAILURES) -> Scores:
    held = cases([ROW] * count)
    return measure(held, [""] * len(held), tuned * count, PERSONA, max_failures=max_failures)


@settings(max_examples=30)
@given(TALLIES)
def test_shares_lie_within_their_intervals_and_those_within_bounds(tallies: Tallies) -> None:
    found = summarise(tallies, resamples=100)
    assert found.turns == sum(turns for _, _, turns in tallies)
    assert found.conversations == len(tallies)
    assert found.base is not None
    assert found.tuned is not None
    assert found.difference is not None
    for estimate in (found.base, found.tuned):
        assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1 + 1e-9
    assert -1 <= found.difference.low <= found.difference.value <= found.difference.high <= 1 + 1e-9
    assert found.difference.value == pytest.approx(found.tuned.value - found.base.value)


@settings(max_examples=30)
@given(TALLIES)
def test_intervals_narrow_with_more_rows(tallies: Tallies) -> None:
    few, many = summarise(tallies), summarise(tallies * 25, resamples=200)
    for part in ("base", "tuned", "difference"):
        one, other = getattr(few, part), getattr(many, part)
        assert other.high - other.low < one.high - one.low


@settings(max_examples=30)
@given(TALLIES, st.data())
def test_a_better_model_has_no_lower_interval(tallies: Tallies, data: st.DataObject) -> None:
    better = [(base, data.draw(st.integers(tuned, turns)), turns) for base, tuned, turns in tallies]
    one, other = summarise(tallies, resamples=100), summarise(better, resamples=100)
    for part in ("tuned", "difference"):
        for end in ("value", "low", "high"):
            assert getattr(getattr(other, part), end) >= getattr(getattr(one, part), end) - 1e-12


def test_few_right_answers_show_little() -> None:
    assert low(summarise([(1, 1, 1)] * 3)) < 0.5
    assert 0.8 < low(summarise([(1, 1, 1)] * 36)) < 0.9
    assert low(summarise([(1, 1, 1)] * 400)) > 0.98


def test_conversations_are_drawn_and_not_turns() -> None:
    """Turns that are right or wrong together tell no more than one turn each."""
    alone = summarise([(0, i % 2, 1) for i in range(40)])
    together = summarise([(0, 10 * (i % 2), 10) for i in range(40)])
    assert low(together) == pytest.approx(low(alone))
    apart = summarise([(0, i % 2, 1) for i in range(400)])
    assert low(apart) > low(together) + 0.05


def test_the_difference_is_paired() -> None:
    """What is hard for both models does not blur what sets them apart."""
    hard = [(0, 0, 1)] * 50 + [(1, 1, 1)] * 50
    paired = summarise(hard).difference
    unpaired = summarise([*[(0, 1, 1)] * 25, *[(1, 0, 1)] * 25, *[(0, 0, 1)] * 25, *[(1, 1, 1)] * 25]).difference
    assert paired is not None
    assert unpaired is not None
    assert paired.value == unpaired.value == 0
    assert paired.high - paired.low < (unpaired.high - unpaired.low) / 2


def test_the_same_seed_gives_the_same_interval() -> None:
    tallies = [(i % 2, i % 3 > 0, 1) for i in range(30)]
    assert summarise(tallies, seed=3) == summarise(tallies, seed=3)


@pytest.mark.parametrize("truth", [0.5, 0.7, 0.9, 0.97])
def test_intervals_hold_the_truth_as_often_as_they_say(truth: float) -> None:
    held = 0
    for seed in range(200):
        draw = random.Random(seed)
        found = summarise([(0, draw.random() < truth, 1) for _ in range(36)], seed=seed, resamples=200).tuned
        assert found is not None
        held += found.low <= truth <= found.high
    assert held / 200 >= 0.9


def test_the_lower_end_that_the_gate_reads_is_rarely_too_high() -> None:
    """The same for twenty conversations and a model that is nearly always right, where a plain bootstrap fails."""
    lows = []
    for seed in range(200):
        draw = random.Random(seed)
        lows.append(low(summarise([(0, draw.random() < 0.97, 1) for _ in range(20)], seed=seed, resamples=200)))
    assert sum(end <= 0.97 for end in lows) / 200 >= 0.95


def test_no_turn_is_no_estimate() -> None:
    assert summarise([]) == Metric(turns=0, conversations=0, base=None, tuned=None, difference=None)


def test_a_perfect_copy_scores_one() -> None:
    found = run([expected_text(CALL), expected_text(ANSWER)], count=3)
    for name in METRICS:
        metric = found.metrics[name]
        assert metric.tuned is None if name == "instruction" else metric.tuned and metric.tuned.value == 1, name
    assert found.confusion["tuned"] == {"query": {"query": 3}}
    assert found.confusion["base"] == {"query": {"(nothing said)": 3}}
    assert found.failures == []
    assert found.failed_rows == []
    assert found.metrics["routing"].turns == found.metrics["routing"].conversations == 3


def test_failures_come_with_their_transcripts() -> None:
    found = run(["[search()]", "That is 12 goals."])
    first, second = found.failures
    assert (first.turn, second.turn) == (2, 4)
    assert set(first.problems) == {"routing", "exact_arguments"}
    assert second.problems == {"figures": "no source for 12"}
    assert second.transcript[0] == "system: You are Stanley."
    assert second.transcript[2] == f"assistant: {GOOD}"
    assert second.transcript[3] == 'tool: {"goals": 11}'
    assert second.expected == "He scored 11 goals, and that is what the team needs."
    assert (second.base, second.tuned) == ("", "That is 12 goals.")
    assert len(first.row) == 12
    assert [row.line for row in found.failed_rows] == [None]
    json.dumps(found.to_dict())


def test_failures_are_bounded_in_number_and_length() -> None:
    found = run(["x" * 10_000, "That is 12 goals."], count=30)
    assert len(found.failures) == MAX_FAILURES
    assert len(found.failed_rows) == 30
    assert all(len(failure.tuned) <= 1500 for failure in found.failures)
    # A rare way of failing is not hidden behind a common one.
    assert any("figures" in failure.problems for failure in found.failures)
    few = run(["x", "That is 12 goals."], count=30, max_failures=2)
    assert {name for failure in few.failures for name in failure.problems} >= {"routing"}
    assert len(few.failures) == 2
    assert run(["x", "x"], max_failures=0).failures == []


def test_every_row_that_failed_is_kept_with_its_line() -> None:
    held = cases([ROW, {**ROW, "messages": [user("Hello"), says("Hello.")]}])
    right = [expected_text(case) for case in held]
    found = measure(held, right, ["x", *right[1:]], PERSONA, lines={held[0].row: 7}, max_failures=0)
    (failed,) = found.failed_rows
    assert (failed.row, failed.line) == (held[0].row, 7)
    assert "routing" in failed.metrics


def test_the_general_probes_are_a_metric() -> None:
    held = cases([{"messages": [user("Hello"), says("Hello.")]}])
    probes = [Probe(str(i), True, i % 2 == 0) for i in range(40)]
    found = measure(held, ["Hi."], ["Hi."], PERSONA, general=probes)
    general = found.metrics["general"]
    assert general.turns == 40
    assert general.difference is not None
    assert general.difference.value == -0.5
    assert found.confusion["tuned"] == {NO_TOOL: {NO_TOOL: 1}}


def test_texts_must_be_as_many_as_cases() -> None:
    with pytest.raises(ValueError, match="2 cases, but 1 texts of the base and 2 of the tuned"):
        measure([CALL, ANSWER], [""], ["", ""], PERSONA)


def test_strata_count_what_was_right_by_route_language_and_question() -> None:
    held = cases([ROW])
    right = [expected_text(case) for case in held]
    found = measure(held, [""] * len(held), right, PERSONA).strata
    for strata in found.values():
        assert sum(stratum["persona"][0] for stratum in strata.values()) == len(held)
        for stratum in strata.values():
            for turns, base, tuned in stratum.values():
                assert (base, tuned) == (0, turns)
    called = {call["function"]["name"] for message in ROW["messages"] for call in message.get("tool_calls") or ()}
    assert called <= set(found["route"])
