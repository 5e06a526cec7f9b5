"""The quality gate: passes what is better on enough rows, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartbeat.gate import Thresholds, verdict


def metrics(**heldout: Any) -> dict[str, Any]:
    figures = {"rows": 38, "supervised_tokens": 2400, "base_loss": 3.05, "tuned_loss": 2.10}
    return {"schema": 1, "steps_done": 400, "heldout": {**figures, **heldout}}


def test_a_better_model_passes_with_its_figures() -> None:
    found = verdict(metrics())
    assert found.passed
    assert found.reasons == ("held-out loss 2.10 against base 3.05 (ratio 0.69, needs at most 0.95) on 38 rows",)
    assert found.figures["loss_ratio"] == pytest.approx(0.6885, abs=1e-4)


def test_a_model_that_is_no_better_fails() -> None:
    found = verdict(metrics(tuned_loss=3.0))
    assert not found.passed
    assert "ratio 0.98, needs at most 0.95" in found.reasons[0]


def test_the_bound_itself_passes() -> None:
    assert verdict(metrics(base_loss=2.0, tuned_loss=1.0), Thresholds(max_loss_ratio=0.5)).passed


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
    [{"max_loss_ratio": 1.5}, {"max_loss_ratio": 0}, {"max_loss_ratio": float("nan")}, {"min_rows": 0}],
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
