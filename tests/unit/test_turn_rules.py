"""Cases out of held-out rows, and what a generated turn is found to do right and wrong."""

from __future__ import annotations

import copy
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heartbeat import persona
from heartbeat.cases import Case, cases, chosen, expected_text, known_tools, route
from heartbeat.chat import PYTHON_END, PYTHON_START
from heartbeat.dataset import read
from heartbeat.turn_rules import METRICS, NO_TOOL, NOTHING_SAID, UNKNOWN_TOOL, UNREADABLE, TurnRules, TurnScore

FILE = Path(__file__).parents[2] / "examples" / "stanley" / "stanley.jsonl"
PERSONA = persona.load()
SCHEMA = {
    "type": "object",
    "properties": {"table": {"type": "string"}, "year": {"type": "integer"}},
    "required": ["table"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "query", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}},
]


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"id": name, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


def calls(*made: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(made)}


def result(text: str, name: str = "query") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": name, "content": text}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def says(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


QUERY = calls(call("query", table="skaters", year=2024))
ROW: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "You are Stanley."},
        user("How many goals did he score, and what is it like for the team?"),
        QUERY,
        result('{"goals": 11}'),
        says("He scored 11 goals, and that is what the team needs."),
    ],
    "tools": TOOLS,
}
CALL, ANSWER = cases([ROW])


def scored(case: Case, text: str) -> TurnScore:
    return TurnRules(case, PERSONA).score(text)


def wrong(case: Case, text: str) -> set[str]:
    return {name for name, problem in scored(case, text).problems.items() if problem}


def asked(question: str, answer: str) -> Case:
    (case,) = cases([{"messages": [user(question), says(answer)]}])
    return case


@pytest.fixture(scope="module")
def stanley_rows() -> list[dict[str, Any]]:
    with FILE.open("rb") as lines:
        return list(read(lines))


@pytest.fixture(scope="module")
def stanley(stanley_rows: list[dict[str, Any]]) -> list[Case]:
    return cases(stanley_rows)


@pytest.fixture(scope="module")
def stanley_rules(stanley: list[Case]) -> list[TurnRules]:
    return [TurnRules(case, PERSONA) for case in stanley]


def test_every_trained_turn_is_a_case() -> None:
    assert [(case.turn, case.is_answer, case.follows_results) for case in (CALL, ANSWER)] == [
        (2, False, False),
        (4, True, True),
    ]
    unweighted = copy.deepcopy(ROW)
    unweighted["messages"][2]["weight"] = 0
    assert [case.turn for case in cases([unweighted])] == [4]


def test_tools_come_from_the_data() -> None:
    silent = {"messages": [user("a"), calls(call("look", at="b"))]}
    assert known_tools([ROW, silent]) == {"query": SCHEMA, "search": {"type": "object"}, "look": None}
    other = {**silent, "tools": [{"type": "function", "function": {"name": "query", "parameters": {}}}]}
    assert known_tools([ROW, other, ROW])["query"] is None
    # A row that declares its tools is judged by them alone.
    assert "look" not in cases([ROW, silent])[0].tools
    assert "query" in cases([ROW, silent])[2].tools


def test_some_rows_are_chosen_by_what_they_say_and_each_route_has_its_share() -> None:
    with FILE.open("rb") as lines:
        rows = list(read(lines))
    some = chosen(rows, 60)
    assert len(some) == 60
    places = [next(i for i, other in enumerate(rows) if other is row) for row in some]
    assert places == sorted(places)
    back = chosen(rows[::-1], 60)
    assert sorted(map(id, back)) == sorted(map(id, some)), "whatever their order in the file"
    whole = Counter(tuple(route(row)) for row in rows)
    share = Counter(tuple(route(row)) for row in some)
    for name, count in whole.items():
        assert abs(share[name] - count * 60 / len(rows)) <= 1, name
    assert chosen(rows, 10_000) == rows
    assert chosen(rows, 0) == chosen([], 5) == []


def test_the_expected_turns_are_right_in_everything() -> None:
    assert wrong(CALL, expected_text(CALL)) == set()
    assert wrong(ANSWER, expected_text(ANSWER)) == set()
    assert set(scored(CALL, "x").problems) == {"routing", "validity", "exact_arguments", "persona", "figures"}
    assert set(scored(ANSWER, "x").problems) == {"answering", "persona", "language", "figures"}


GOOD = '[query(table="skaters", year=2024)]'


@pytest.mark.parametrize(
    ("text", "metrics"),
    [
        (GOOD, set()),
        (PYTHON_START + GOOD + PYTHON_END, set()),
        ('[query(year=2024, table="skaters")]', set()),
        ("[query(table='skaters', year=2024.0)]", set()),
        ('[query(table="skaters", year=2023)]', {"exact_arguments"}),
        ('[query(table="skaters")]', {"exact_arguments"}),
        ('[query(table="skaters", year="2024")]', {"exact_arguments", "validity"}),
        ("[query(year=2024)]", {"exact_arguments", "validity"}),
        ('[query(table="skaters", year=2024, team="MTL")]', {"exact_arguments", "validity"}),
        (GOOD[:-1] + ", " + GOOD[1:], {"exact_arguments"}),
        ('[search(query="goals")]', {"routing", "exact_arguments"}),
        ('[query(table="skaters", year=2024), search()]', {"routing", "exact_arguments"}),
        ("[lookup()]", {"routing", "exact_arguments", "validity"}),
        ('[query(table="skaters"', {"routing", "exact_arguments", "validity"}),
        ("Let me look.", {"routing", "exact_arguments", "validity"}),
        ("He scored 30 goals.", {"routing", "exact_arguments", "validity", "figures"}),
        ("As an AI, I cannot know.", {"routing", "exact_arguments", "validity", "persona"}),
        ("", {"routing", "exact_arguments", "validity", "figures", "persona"}),
    ],
)
def test_a_turn_that_should_call(text: str, metrics: set[str]) -> None:
    assert wrong(CALL, text) == metrics


@pytest.mark.parametrize(
    ("text", "metrics"),
    [
        ("That is 11 goals.", set()),
        ("That is 12 goals.", {"figures"}),
        ("Il est dans une forme que les autres n'ont pas : 11 buts.", {"language"}),
        ("Il est dans une forme que les autres n'ont pas : 11 buts for the team.", {"language"}),
        ("qwx zzt", {"language"}),
        ("I am Llama, and that is 11 goals.", {"persona"}),
        (GOOD, {"answering", "figures", "language", "persona"}),
        ("[query(", {"answering", "figures", "language", "persona"}),
        (" \n", {"answering", "figures", "language", "persona"}),
    ],
)
def test_a_turn_that_should_answer(text: str, metrics: set[str]) -> None:
    assert wrong(ANSWER, text) == metrics


@pytest.mark.parametrize(
    ("text", "route"),
    [
        (GOOD, "query"),
        ("[search(), query(table='a')]", "query + search"),
        ("[lookup()]", UNKNOWN_TOOL),
        ("Hello.", NO_TOOL),
        ("", NOTHING_SAID),
        ("[query(1)]", UNREADABLE),
        (PYTHON_START + "oops", UNREADABLE),
        ('I call query(table="a")', UNREADABLE),
        ('{"name": "query", "parameters": {}}', UNREADABLE),
        ("[1] is a footnote.", NO_TOOL),
    ],
)
def test_routes(text: str, route: str) -> None:
    assert scored(CALL, text).route == route


def test_routing_without_a_tool() -> None:
    case = asked("Hello!", "Hello, Stanley here.")
    assert wrong(case, "Good evening.") == set()
    assert "routing" in wrong(case, "[query(table='a')]")
    assert "routing" in wrong(case, "")


def test_one_call_after_the_other_may_be_made_at_once_but_not_the_reverse() -> None:
    search = calls(call("search", query="form"))
    messages = [user("Both?"), QUERY, result("{}"), search, result("{}", "search"), says("Fine."), user("And?"), QUERY]
    first, second, *_ = cases([{"messages": messages, "tools": TOOLS}])
    both = '[search(query="form"), query(table="skaters", year=2024)]'
    assert wrong(first, GOOD) == wrong(first, both) == set()
    assert scored(first, both).expected_route == scored(first, both).route == "query + search"
    assert "routing" in wrong(second, both)
    at_once = {"messages": [user("Both?"), calls(*QUERY["tool_calls"], *search["tool_calls"])], "tools": TOOLS}
    (case,) = cases([at_once])
    assert wrong(case, both) == set()
    assert {"routing", "exact_arguments"} <= wrong(case, GOOD)


def test_a_request_for_a_form_is_scored_where_the_row_keeps_it() -> None:
    kept = asked("Answer in French, in at most 5 words: who won?", "Le Canadien, bien sûr.")
    assert wrong(kept, "Le Canadien est bon.") == set()
    assert wrong(kept, "The team that is the best, of course.") == {"instruction"}
    assert "language" not in scored(kept, "x").problems
    same = asked("Answer in English: who is the best of the team?", "That is for you to say.")
    assert wrong(same, "Il est dans une forme que les autres n'ont pas.") == {"instruction"}
    in_part = asked("Answer in English, in one sentence, please.", "That is for you to say. Ask me of the history.")
    assert wrong(in_part, "It is the goalie. He is the best of the team. He is.") == set()
    assert wrong(in_part, "Il est dans une forme que les autres n'ont pas.") == {"instruction"}
    declined = asked("Answer in one sentence: who won?", "No. I do not say. Ask me of the history.")
    assert "instruction" not in scored(declined, "x").problems


def test_what_the_row_itself_breaks_is_not_scored() -> None:
    exception = asked("Are you an AI, and what is it like?", "I am an AI, and that is 99 times what you are.")
    assert "figures" not in scored(exception, "x").problems
    assert wrong(exception, "As an AI, I am of the 5.") == set()
    assert wrong(exception, "My name is Bob, and that is it.") == {"persona"}


@pytest.mark.parametrize(
    "turn",
    [calls(call("query", table="a", **{"class": 1})), {**QUERY, "content": "Let me look."}],
)
def test_a_call_that_the_endpoint_could_not_read_is_not_asked_of_a_model(turn: dict[str, Any]) -> None:
    (case,) = cases([{"messages": [user("How many?"), turn], "tools": TOOLS}])
    assert not {"routing", "validity", "exact_arguments"} & scored(case, GOOD).problems.keys()


def test_the_assistants_own_words_are_no_source() -> None:
    messages = [*ROW["messages"], user("And what is it in the other games?"), says("That is for the data to say.")]
    messages[4] = says("He scored 11 of 77.")
    last = cases([{**ROW, "messages": messages}])[-1]
    assert wrong(last, "It is 11, and that is it.") == set()
    assert wrong(last, "It is 77, and that is it.") == {"figures"}


def test_the_language_is_the_latest_that_tells() -> None:
    messages = [
        user("Comment est le gardien dans les buts ?"),
        says("Il est en forme."),
        user("Price?"),
        says("Il est bon."),
    ]
    last = cases([{"messages": messages}])[-1]
    assert "language" in wrong(last, "He is the best of the team.")
    then = [*messages[:2], user("What is it like for the team?"), says("It is good for the team.")]
    last = cases([{"messages": then}])[-1]
    assert "language" in wrong(last, "Il est dans une forme que les autres n'ont pas.")


@given(st.text())
def test_anything_said_can_be_scored(text: str) -> None:
    for case in (CALL, ANSWER):
        assert scored(case, text).problems.keys() <= set(METRICS)


ODD = st.one_of(
    st.text(max_size=20),
    st.lists(st.sampled_from(["[", "]", "(", ")", "query", "=", "1", "'", '"', ",", "{", "}", PYTHON_START])).map(
        "".join
    ),
)


@given(ODD)
def test_the_metrics_that_count_do_not_depend_on_what_is_said(text: str) -> None:
    for case in (CALL, ANSWER):
        assert scored(case, text).problems.keys() == scored(case, expected_text(case)).problems.keys()


TEXTS = st.sampled_from(["", GOOD, "[search()]", "[query(", "Let me look.", "That is 11 goals.", "As an AI, 12 goals."])


@given(TEXTS, TEXTS)
def test_the_rows_own_turn_is_never_worse_than_another(first: str, second: str) -> None:
    for case, text in ((CALL, first), (ANSWER, second)):
        assert wrong(case, expected_text(case)) <= wrong(case, text)


def test_all_of_stanley_passes_itself(stanley_rows: list[dict[str, Any]], stanley: list[Case]) -> None:
    counted = Counter[str]()
    for case in stanley:
        found = scored(case, expected_text(case))
        assert not any(found.problems.values()), found.problems
        assert found.route == found.expected_route
        counted.update(list(found.problems))
    # No row breaks a rule itself: all count wherever they could.
    said = [message for row in stanley_rows for message in row["messages"] if message["role"] == "assistant"]
    assert counted["persona"] == counted["figures"] == len(stanley) == len(said) > 3500
    assert counted["routing"] + counted["answering"] == len(stanley)
    assert counted["validity"] == counted["exact_arguments"] == sum("tool_calls" in message for message in said)
    assert counted["language"] > 1500
    assert counted["instruction"] > 200


@settings(max_examples=5)
@given(seed=st.integers())
def test_shuffled_turns_route_by_chance(stanley: list[Case], stanley_rules: list[TurnRules], seed: int) -> None:
    texts = [expected_text(case) for case in stanley]
    random.Random(seed).shuffle(texts)
    found = [rules.score(text) for rules, text in zip(stanley_rules, texts, strict=True)]
    routing = [score for score in found if "routing" in score.problems]
    said = Counter(score.route for score in found)
    asked_for = Counter(score.expected_route for score in routing)
    chance = sum(asked_for[route] * said[route] for route in said) / len(routing) / len(found)
    right = sum(score.problems["routing"] is None for score in routing) / len(routing)
    assert right == pytest.approx(chance, abs=0.1)  # four standard deviations
    assert right < 0.5
