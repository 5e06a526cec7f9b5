"""What the trainer keeps for the acceptance check is what the gate was decided on, and little of it."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from heartbeat import held_out_sample, persona
from heartbeat.cases import Case, Row, cases, expected_text, known_tools
from heartbeat.chat import render, text_of
from heartbeat.dataset import read
from heartbeat.held_out import split
from heartbeat.turn_rules import TurnRules
from tests.unit.test_turn_rules import FILE, ROW, TOOLS, calls, result, says, user

TOKENS = 100


def kept(rows: Sequence[Row], tools: Any) -> dict[str, Any]:
    """As it is read back from S3."""
    made = held_out_sample.keep(rows, tools, max_new_tokens=28, count=lambda _: TOKENS)
    found: dict[str, Any] = json.loads(json.dumps(made))
    return found


def asked(case: Case) -> str:
    return text_of(render(case.prompt, case.declared or None, generation_prompt=True))


@pytest.fixture(scope="module")
def stanley() -> tuple[Sequence[Row], Any]:
    with Path(FILE).open("rb") as lines:
        rows = list(read(lines))
    return split(rows, 0.1).heldout, known_tools(rows)


def test_turns_are_asked_and_scored_as_in_training(stanley: tuple[Sequence[Row], Any]) -> None:
    rows, tools = stanley
    in_training = {(case.row, case.turn): case for case in cases(rows, tools)}
    found = held_out_sample.read(kept(rows, tools), max_model_len=8192)
    assert len(found) == held_out_sample.MOST_TURNS == len({case.conversation for case in found})
    rules = persona.load()
    for case in found:
        original = in_training[case.row, case.turn]
        assert asked(case) == asked(original)
        assert (case.tools, case.accepted) == (original.tools, original.accepted)
        assert expected_text(case) == expected_text(original)
        said = expected_text(case)
        assert TurnRules(case, rules).score(said) == TurnRules(original, rules).score(said)
    assert any(case.accepted for case in found)
    assert any(case.is_answer and case.follows_results for case in found)
    assert any(case.declared for case in found)


def test_the_choice_does_not_depend_on_the_order_of_the_file(stanley: tuple[Sequence[Row], Any]) -> None:
    rows, tools = stanley
    mixed = random.Random(1).sample(rows, len(rows))
    assert {(turn["row"], turn["turn"]) for turn in kept(rows, tools)["turns"]} == {
        (turn["row"], turn["turn"]) for turn in kept(mixed, tools)["turns"]
    }


def test_nothing_of_a_row_but_what_is_asked_and_expected_is_kept() -> None:
    last = says("That is all there is to it.")
    row = {
        "messages": [{**user("Who leads?"), "address": "12 Main Street"}, says("He does."), user("And now?"), last],
        "customer": "Ann",
    }
    (turn,) = kept([row], {})["turns"]
    text = json.dumps(turn)
    assert "Ann" not in text
    assert "Main Street" not in text
    assert (last["content"] in text) == (turn["turn"] == 3)


def test_calls_have_the_form_that_an_api_takes() -> None:
    called = {"function": {"name": "query", "arguments": {"table": "skaters"}}}
    rows = [
        {"messages": [user(f"{n}?"), calls(called), result("{}"), says(f"It is {n}.")], "tools": TOOLS}
        for n in range(9)
    ]
    prompts = [turn["prompt"] for turn in kept(rows, {})["turns"] if len(turn["prompt"]) > 1]
    assert prompts
    for _, calling, answer in prompts:
        (call,) = calling["tool_calls"]
        assert call == {
            "id": "call-1",
            "type": "function",
            "function": {"name": "query", "arguments": '{"table": "skaters"}'},
        }
        assert answer == result("{}")


def test_what_leaves_the_endpoint_no_room_is_not_asked() -> None:
    found = kept([ROW], known_tools([ROW]))
    assert len(held_out_sample.read(found, max_model_len=TOKENS + 28)) == 1
    assert held_out_sample.read(found, max_model_len=TOKENS + 27) == []


def test_no_rows_leave_no_turns() -> None:
    assert kept([], {})["turns"] == []
    never_trained = {"messages": [user("?"), {**says("!"), "weight": 0}]}
    assert kept([never_trained], {})["turns"] == []
