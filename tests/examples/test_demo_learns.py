"""What the demo shows: the tiny base learns where Stanley's questions go, and the gate sees whether it has."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from benchmarks import demo_learns
from benchmarks.demo_learns import Learned
from heartbeat import conversation, persona, score_gate, scores
from heartbeat.conversation import Row
from heartbeat.dataset import read
from heartbeat.scores import Scores

STEPS = 160
"""Fewer than the demo's: what tells learning from none shows long before. Honest and shuffled rows get as many."""
NUM_ROWS = 100
"""Held-out rows that are asked."""
ROUTING = score_gate.Rules(bounds={"routing": score_gate.Bound(min_gain=0.1)})
"""What a run of so few steps passes that learns where questions go."""


@pytest.fixture(scope="module")
def stanley() -> list[Row]:
    with demo_learns.STANLEY.open("rb") as lines:
        return list(read(lines))


@pytest.fixture(scope="module")
def learned(stanley: list[Row]) -> Learned:
    return demo_learns.learn(stanley, {"MAX_STEPS": STEPS})


@pytest.fixture(scope="module")
def base_answers(learned: Learned) -> list[str]:
    return learned.say(learned.cases(NUM_ROWS), adapted=False)


@pytest.fixture(scope="module")
def honest(learned: Learned, base_answers: list[str]) -> Scores:
    return scored(learned, base_answers)


def scored(learned: Learned, base_answers: Sequence[str]) -> Scores:
    asked = learned.cases(NUM_ROWS)
    return scores.measure(asked, base_answers, learned.say(asked, adapted=True), persona.load())


def shuffled(rows: Sequence[Row]) -> list[Row]:
    """Every question answered as one of another route was, drawn at random: calls, results and answer."""
    draw = random.Random(0)
    exchanges = [exchange for row in rows for exchange in exchanges_of(row)]
    by_route: dict[str, list[list[conversation.Row]]] = {}
    for exchange in exchanges:
        by_route.setdefault(route(exchange), []).append(exchange)
    found = []
    for row in rows:
        messages = [message for message in row["messages"] if message["role"] == "system"]
        for exchange in exchanges_of(row):
            others = [one for name, some in by_route.items() if name != route(exchange) for one in some]
            messages += [exchange[0], *draw.choice(others)[1:]]
        found.append({**row, "messages": messages})
    return found


def exchanges_of(row: Row) -> list[list[Row]]:
    """The user's messages, each with what follows until the next."""
    found: list[list[Row]] = []
    for message in row["messages"]:
        if message["role"] == "user":
            found.append([])
        if found:
            found[-1].append(message)
    return found


def route(exchange: Sequence[Row]) -> str:
    calls = (call["function"]["name"] for message in exchange for call in conversation.tool_calls(message))
    return " + ".join(sorted(set(calls)))


def test_it_learns_where_questions_go_and_passes_the_rule_that_the_others_fail(
    honest: Scores,
) -> None:
    """From near chance, part of the way to where the demo goes."""
    routing = honest.metrics["routing"]
    assert routing.base
    assert routing.tuned
    assert routing.base.value < 0.45  # chance, or the commonest answer always
    assert routing.tuned.value > 0.45
    judged = score_gate.verdict(honest.to_dict(), ROUTING)
    assert judged.passed, judged.reasons


def test_an_untrained_adapter_fails_the_gate(stanley: list[Row], base_answers: list[str]) -> None:
    """It says what the base says."""
    untrained = demo_learns.learn(stanley, {}, train=False)
    assert untrained.say(untrained.cases(2), adapted=True) == untrained.say(untrained.cases(2), adapted=False)
    asked = untrained.cases(NUM_ROWS)
    found = scores.measure(asked, base_answers, base_answers, persona.load()).to_dict()
    assert not score_gate.verdict(found).passed
    assert not score_gate.verdict(found, ROUTING).passed


def test_answers_shuffled_among_routes_fail_the_gate(stanley: list[Row], honest: Scores) -> None:
    rows = shuffled(stanley)
    assert [len(exchanges_of(row)) for row in rows] == [len(exchanges_of(row)) for row in stanley]
    learned = demo_learns.learn(rows, {"MAX_STEPS": STEPS})
    asked = learned.cases(NUM_ROWS)
    found = scored(learned, learned.say(asked, adapted=False))
    assert not score_gate.verdict(found.to_dict()).passed
    assert not score_gate.verdict(found.to_dict(), ROUTING).passed
    gain, honest_gain = found.metrics["routing"].difference, honest.metrics["routing"].difference
    assert gain
    assert honest_gain
    assert gain.high < honest_gain.value  # shown to be less, not only not shown to be as much
