"""The gate on scores: passes what is shown to be good, and says of the rest whether it is bad or unknown."""

from __future__ import annotations

import copy
import random
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartbeat import score_gate
from heartbeat.cases import Case, cases, expected_text, known_tools
from heartbeat.dataset import read
from heartbeat.gate import Verdict
from heartbeat.held_out import split
from heartbeat.job import SettingError
from heartbeat.score_gate import Bound, Bounds, Rules
from heartbeat.scores import Probe, measure, summarise, unscored
from heartbeat.turn_rules import METRICS
from tests.unit.test_turn_rules import FILE, PERSONA

DEFAULT = score_gate.load().bounds
PROBES = [Probe(str(i), i % 3 > 0, i % 3 > 0) for i in range(60)]


def verdict(found: dict[str, Any], bounds: Bounds = DEFAULT) -> Verdict:
    return score_gate.verdict(found, Rules(bounds=bounds))


def scores(right: int, count: int = 100, base: int = 0, name: str = "routing") -> dict[str, Any]:
    tallies = [(i < base, i < right, 1) for i in range(count)]
    return {"metrics": {name: asdict(summarise(tallies))}}


@pytest.mark.parametrize(
    ("right", "count", "passed", "words"),
    [
        (95, 100, True, "routing 0.95 (95% interval "),
        (50, 100, False, "is below 0.8"),
        (80, 100, False, "not enough rows to tell it from the 0.8 that it needs"),
        (84, 100, False, "not enough rows"),
        (5, 5, False, "not enough rows"),
        (1, 1, False, "not enough rows"),
        (0, 0, False, "not enough rows (no held-out row tests it"),
    ],
)
def test_three_answers(right: int, count: int, passed: bool, words: str) -> None:
    found = verdict(scores(right, count), {"routing": Bound(at_least=0.8)})
    assert found.passed == passed
    (reason,) = found.reasons
    assert words in reason


@pytest.mark.parametrize(
    ("base", "tuned", "min_gain", "passed", "words"),
    [
        (30, 90, 0.0, True, "routing against base +0.60"),
        (90, 30, 0.0, False, "is below 0"),
        (50, 52, 0.0, False, "not enough rows"),
        (50, 50, -0.1, True, "routing against base +0.00"),
        (50, 30, -0.1, False, "is below -0.1"),
    ],
)
def test_against_base(base: int, tuned: int, min_gain: float, passed: bool, words: str) -> None:
    found = verdict(scores(tuned, base=base), {"routing": Bound(min_gain=min_gain)})
    assert found.passed == passed
    assert words in found.reasons[0]


def test_an_optional_metric_stops_only_what_is_shown_to_be_bad() -> None:
    bounds = {"routing": Bound(at_least=0.5), "instruction": Bound(at_least=0.8, required=False)}
    good = scores(95)["metrics"]
    for right, count, passed in ((3, 3, True), (2, 3, True), (0, 0, True), (10, 100, False), (99, 100, True)):
        both = {"metrics": {**good, **scores(right, count, name="instruction")["metrics"]}}
        found = verdict(both, bounds)
        assert found.passed == passed
        if count < 10:
            assert any("instruction" in reason and "not enough rows" in reason for reason in found.reasons)


@pytest.mark.parametrize(
    "broken",
    [{}, {"metrics": None}, {"metrics": {}}, {"metrics": {"routing": 3}}, {"metrics": {"routing": {"turns": True}}}],
)
def test_missing_scores_fail_with_their_name(broken: dict[str, Any]) -> None:
    found = verdict(broken, {"routing": Bound(at_least=0.5)})
    assert not found.passed
    assert found.reasons == ("routing is missing from the scores",)


@pytest.mark.parametrize("odd", [None, "0.9", True, float("nan"), float("inf"), {}])
@pytest.mark.parametrize("end", ["value", "low", "high"])
def test_what_is_no_number_fails(odd: Any, end: str) -> None:
    broken = copy.deepcopy(scores(95))
    broken["metrics"]["routing"]["tuned"][end] = odd
    found = verdict(broken, {"routing": Bound(at_least=0.5)})
    assert found.reasons == ("routing is no number in the scores",)
    assert not found.passed


def test_a_value_outside_its_interval_fails() -> None:
    broken = scores(95)
    broken["metrics"]["routing"]["tuned"] = {"value": 0.1, "low": 0.9, "high": 1.0}
    assert not verdict(broken, {"routing": Bound(at_least=0.5)}).passed


ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3)),
    lambda inner: st.dictionaries(
        st.sampled_from(["metrics", "routing", "tuned", "difference", "turns", "value", "low", "high"]), inner
    ),
)


@given(ANYTHING.filter(lambda value: isinstance(value, dict)))
def test_never_raises(odd: dict[str, Any]) -> None:
    assert not verdict(odd, DEFAULT).passed


@given(st.data(), st.integers(1, 60))
def test_a_better_model_never_goes_from_pass_to_fail(data: st.DataObject, count: int) -> None:
    bits = st.lists(st.booleans(), min_size=count, max_size=count)
    base, tuned, more = data.draw(bits), data.draw(bits), data.draw(bits)
    better = [one or other for one, other in zip(tuned, more, strict=True)]
    bound = Bound(
        at_least=data.draw(st.floats(0, 0.99)),
        min_gain=data.draw(st.floats(-0.99, 0.99)),
        required=data.draw(st.booleans()),
    )

    def passes(said: list[bool]) -> bool:
        tallies = [(int(one), int(other), 1) for one, other in zip(base, said, strict=True)]
        found = {"metrics": {"routing": asdict(summarise(tallies, resamples=100))}}
        return verdict(found, {"routing": bound}).passed

    assert passes(better) or not passes(tuned)


def test_the_default_file_judges_every_metric() -> None:
    assert set(DEFAULT) == {*METRICS, "general"}
    assert [name for name, bound in DEFAULT.items() if not bound.required] == ["instruction"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[routng]\nat_least = 0.5", "gate.toml: routng is no setting; did you mean 'routing'?"),
        ("[routing]\natleast = 0.5", "routing.atleast is no setting; did you mean 'at_least'?"),
        ("[routing]\nat_least = 1.0", "routing.at_least = 1.0; write a share such as 0.8, under 1"),
        ("[routing]\nat_least = 80", "routing.at_least = 80; write a share"),
        ("[routing]\nat_least = -0.1", "routing.at_least = -0.1; write a share"),
        ("[routing]\nat_least = nan", "routing.at_least = nan; write a share"),
        ("[routing]\nat_least = true", "routing.at_least = True; write a share"),
        ("[routing]\nmin_gain = '0'", "routing.min_gain = '0'; write a difference"),
        ("[routing]\nmin_gain = -1.5", "routing.min_gain = -1.5; write a difference"),
        ("[routing]\nat_least = 0.5\nrequired = 1", "routing.required = 1; write true or false"),
        ("[routing]\nrequired = true", "give it at_least or min_gain"),
        ("[general]\nat_least = 0.5", "general.at_least = 0.5; give min_gain"),
        ("loss_alone = 1\n[routing]\nat_least = 0.5", "loss_alone = 1; write true or false"),
        ("routing = 0.5", "routing = 0.5; write a table, [routing]"),
        ("[routing]\nat_least = 0.5\nrequired = false", "leave one metric required"),
        ("", "leave one metric required"),
        ("[routing", "gate.toml is not TOML"),
    ],
)
def test_a_mistake_is_one_message(text: str, words: str) -> None:
    with pytest.raises(SettingError) as raised:
        score_gate.read(text)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


OFF = unscored("EVAL_GENERATE_ROWS=0 asks nothing", turned_off=True)
LATE = unscored("there was not enough time")


@pytest.mark.parametrize(
    ("found", "loss_alone", "passed", "words"),
    [
        (OFF, False, False, "EVAL_GENERATE_ROWS=0 asks nothing; set EVAL_GENERATE_ROWS above 0, or loss_alone = true"),
        (OFF, True, True, "judged by the held-out loss alone"),
        (LATE, True, False, "no answers were scored: there was not enough time"),
        ({**LATE, "turned_off": "yes"}, True, False, "no answers were scored"),
    ],
)
def test_without_answers_it_passes_only_where_the_file_says_so(
    found: dict[str, Any], loss_alone: bool, passed: bool, words: str
) -> None:
    rules = Rules(bounds=DEFAULT, loss_alone=loss_alone)
    judged = score_gate.verdict(found, rules)
    assert judged.passed == passed
    assert words in judged.reasons[0]
    assert score_gate.table(found, rules) == []


def test_the_default_file_asks_for_answers() -> None:
    assert not score_gate.load().loss_alone


@pytest.mark.parametrize(
    ("right", "count", "bound", "outcome"),
    [
        (95, 100, Bound(at_least=0.8), "met"),
        (84, 100, Bound(at_least=0.8), "too few rows"),
        (50, 100, Bound(at_least=0.8, min_gain=0.0), "missed"),
        (95, 100, Bound(at_least=0.8, min_gain=0.95), "too few rows"),
        (0, 0, Bound(at_least=0.8), "too few rows"),
    ],
)
def test_the_table_has_the_worse_outcome_of_a_metrics_bounds(
    right: int, count: int, bound: Bound, outcome: str
) -> None:
    found = scores(right, count)
    (row,) = score_gate.table(found, Rules(bounds={"routing": bound}))
    assert (row["metric"], row["turns"], row["outcome"]) == ("routing", count, outcome)
    assert (row["at_least"], row["min_gain"]) == (bound.at_least, bound.min_gain)
    assert row["tuned"] == found["metrics"]["routing"]["tuned"]


@pytest.fixture(scope="module", params=["many rows", "held-out rows"])
def stanley(request: pytest.FixtureRequest) -> list[Case]:
    with FILE.open("rb") as lines:
        rows = list(read(lines))
    return cases(rows[:360] if request.param == "many rows" else split(rows, 0.1).heldout, known_tools(rows))


def said(stanley: list[Case]) -> tuple[list[str], list[str]]:
    """The expected turns, and those of other rows."""
    texts = [expected_text(case) for case in stanley]
    return texts, random.Random(1).sample(texts, len(texts))


def test_stanleys_own_turns_pass_and_shuffled_ones_do_not(stanley: list[Case]) -> None:
    right, shuffled = said(stanley)
    found = verdict(measure(stanley, shuffled, right, PERSONA, general=PROBES).to_dict())
    assert found.passed, found.reasons
    failed = verdict(measure(stanley, shuffled, shuffled, PERSONA, general=PROBES).to_dict())
    assert not failed.passed
    assert any(reason.startswith("routing 0.") and "is below 0.7" in reason for reason in failed.reasons)


def test_an_untrained_adapter_fails_however_good_its_base(stanley: list[Case]) -> None:
    right, _ = said(stanley)
    found = verdict(measure(stanley, right, right, PERSONA, general=PROBES).to_dict())
    assert [reason.split(" (")[0] for reason in found.reasons] == ["routing against base +0.00"]


def test_a_fall_in_general_ability_stops_the_best_stanley(stanley: list[Case]) -> None:
    right, shuffled = said(stanley)
    fallen = [Probe(probe.name, True, i % 2 == 0) for i, probe in enumerate(PROBES)]
    found = verdict(measure(stanley, shuffled, right, PERSONA, general=fallen).to_dict())
    assert [reason.split(" (")[0] for reason in found.reasons] == ["general against base -0.50"]
    unasked = verdict(measure(stanley, shuffled, right, PERSONA).to_dict())
    assert unasked.reasons == ("general: not enough rows (the general probe set was not asked)",)
