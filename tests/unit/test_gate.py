"""The quality gate: passes what is better on enough rows, and nothing else."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartbeat import held_out_loss, score_gate
from heartbeat.gate import Thresholds, verdict
from heartbeat.job import SettingError
from heartbeat.scores import Estimate


def metrics(spread: float = 0.02, **heldout: Any) -> dict[str, Any]:
    """As the trainer writes them; the ratio's interval reaches `spread` to both sides."""
    figures = {"rows": 38, "supervised_tokens": 2400, "base_loss": 3.05, "tuned_loss": 2.10, **heldout}
    found = {"schema": 1, "steps_done": 400, "heldout": figures}
    try:
        ratio = figures["tuned_loss"] / figures["base_loss"]
    except (TypeError, ZeroDivisionError):
        return found
    figures["loss"] = {"ratio": {"value": ratio, "low": ratio - spread, "high": ratio + spread}}
    return found


def test_a_better_model_passes_with_its_figures() -> None:
    found = verdict(metrics())
    assert found.passed
    assert found.reasons == (
        "held-out loss 2.10 against base 3.05 (ratio 0.69, 95% interval 0.67 to 0.71, needs at most 0.95) on 38 rows",
    )
    assert found.figures["loss_ratio"] == pytest.approx(0.6885, abs=1e-4)


def test_a_model_that_is_no_better_fails() -> None:
    found = verdict(metrics(tuned_loss=3.0))
    assert not found.passed
    assert "ratio 0.98, 95% interval 0.96 to 1.00, needs at most 0.95" in found.reasons[0]
    assert "not enough rows" not in found.reasons[0]


def test_the_bound_itself_passes() -> None:
    assert verdict(metrics(base_loss=2.0, tuned_loss=1.0, spread=0.0), Thresholds(max_ratio=0.5)).passed


@pytest.mark.parametrize("tuned", [0.94, 0.96])
def test_an_interval_that_cannot_tell_is_not_enough_rows_on_either_side(tuned: float) -> None:
    found = verdict(metrics(base_loss=1.0, tuned_loss=tuned))
    assert not found.passed
    assert "not enough rows to tell; add held-out rows, or raise max_ratio" in found.reasons[0]


@pytest.mark.parametrize(
    "odd", [None, {}, {"ratio": None}, {"ratio": {"low": 0.9, "high": 0.9}}, {"ratio": {"low": 0.1}}]
)
def test_a_ratio_without_its_interval_does_not_pass(odd: Any) -> None:
    found = metrics()
    found["heldout"]["loss"] = odd
    assert "the interval of their ratio is missing" in verdict(found).reasons[0]


@given(st.lists(st.tuples(st.floats(0.01, 90), st.floats(0.01, 90), st.integers(1, 30)), min_size=1, max_size=40))
def test_loss_and_perplexity_have_intervals_that_hold_them(rows: list[tuple[float, float, int]]) -> None:
    base, tuned, tokens = (list(column) for column in zip(*rows, strict=True))
    found = held_out_loss.measure(base, tuned, tokens, resamples=50)
    assert found is not None
    assert found.ratio is not None
    assert found.base.value == pytest.approx(sum(base) / sum(tokens))
    assert found.ratio.value == pytest.approx(found.tuned.value / found.base.value)
    written = found.to_dict()
    assert (written["loss"]["rows"], written["perplexity"]["tokens"]) == (len(rows), sum(tokens))
    assert written["perplexity"]["tuned"]["value"] == pytest.approx(math.exp(found.tuned.value))
    for part in (found.base, found.tuned, found.ratio, Estimate(**written["perplexity"]["base"])):
        assert part.low <= part.value <= part.high


def test_more_rows_tell_more_and_rows_of_one_kind_tell_all() -> None:
    draw = random.Random(0)
    rows = [(draw.uniform(1, 3), draw.uniform(0.5, 2)) for _ in range(4000)]

    def width(count: int) -> float:
        base, tuned = zip(*rows[:count], strict=True)
        found = held_out_loss.measure(base, tuned, [1] * count, resamples=200)
        assert found is not None
        assert found.ratio is not None
        return found.ratio.high - found.ratio.low

    assert width(20) > 2 * width(200) > 4 * width(4000) > 0
    assert held_out_loss.measure([], [], []) is held_out_loss.measure([1.0], [1.0], [0]) is None


def test_the_gate_file_says_the_same_as_a_file_without_the_table() -> None:
    assert score_gate.load().loss == Thresholds() == score_gate.read("[routing]\nat_least = 0.5").loss
    given = score_gate.read("[loss]\nmax_ratio = 0.5\nmin_rows = 30\n[routing]\nat_least = 0.5").loss
    assert given == Thresholds(max_ratio=0.5, min_rows=30)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("max_ratio = 1.5", r"loss\.max_ratio=1\.5 must be above 0 and at most 1"),
        ("max_ratio = true", r"loss\.max_ratio = True; write a number"),
        ("min_rows = 2.5", r"loss\.min_rows = 2\.5; write a whole number"),
        ("min_row = 3", r"loss\.min_row is no setting; did you mean 'min_rows'"),
    ],
)
def test_a_mistake_in_the_gate_file_is_named(table: str, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        score_gate.read(f"[loss]\n{table}\n[routing]\nat_least = 0.5")


@pytest.mark.parametrize(
    ("heldout", "words"),
    [
        ({"rows": 9}, "9 held-out rows, needs at least 10: raise HELD_OUT_FRACTION or add rows"),
        ({"rows": None}, "the number of held-out rows is missing"),
        ({"supervised_tokens": 100}, "100 held-out supervised tokens, needs at least 200"),
        ({"tuned_loss": float("nan")}, "heldout.tuned_loss is nan, not a loss"),
        ({"tuned_loss": float("inf")}, "heldout.tuned_loss is inf, not a loss"),
        ({"tuned_loss": None}, "heldout.tuned_loss is missing"),
        ({"tuned_loss": -1.0}, "heldout.tuned_loss is -1.0, not a loss"),
        ({"base_loss": True}, "heldout.base_loss is True, not a loss"),
        ({"base_loss": "3.0"}, "heldout.base_loss is '3.0', not a loss"),
        ({"base_loss": 0, "tuned_loss": 0}, "the base's held-out loss is 0"),
    ],
)
def test_what_is_missing_or_odd_fails_with_its_reason(heldout: dict[str, Any], words: str) -> None:
    found = verdict(metrics(**heldout))
    assert not found.passed
    assert any(words in reason for reason in found.reasons), found.reasons


@pytest.mark.parametrize("empty", [{}, {"heldout": None}, {"heldout": []}, {"steps_done": 0}])
def test_empty_metrics_never_pass(empty: dict[str, Any]) -> None:
    assert not verdict(empty).passed


def test_a_run_without_a_step_fails_even_when_its_losses_look_good() -> None:
    assert not verdict({**metrics(), "steps_done": 0}).passed


@pytest.mark.parametrize(
    "bounds",
    [{"max_ratio": 1.5}, {"max_ratio": 0}, {"max_ratio": float("nan")}, {"min_rows": 0}],
)
def test_thresholds_that_judge_nothing_are_refused(bounds: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bounds))):
        Thresholds(**bounds)


ANYTHING = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3))


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(metrics()["heldout"], ANYTHING)), ANYTHING)
def test_a_pass_always_has_the_figures_to_show_for_it(heldout: dict[str, Any], steps: Any) -> None:
    found = verdict({"heldout": heldout, "steps_done": steps})
    assert found.reasons
    assert all(found.reasons)
    if found.passed:
        assert heldout["rows"] >= 10
        assert heldout["tuned_loss"] <= 0.95 * heldout["base_loss"] * (1 + 1e-9)
