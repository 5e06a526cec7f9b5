"""The general probe set: every rule with right and wrong answers, mistakes in a file, and the bundled set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartbeat import probes
from heartbeat.conversation import fingerprint
from heartbeat.job import SettingError
from heartbeat.probes import Question, fold, load, score
from heartbeat.row_rules import problems
from heartbeat.scores import Probe, summarise

BUNDLED = load()
UNRELATED = "Purple elephants hum beside a quiet lighthouse."


def question(asked: str = "Well?", **right: Any) -> Question:
    messages = [{"role": "user", "content": asked}]
    return Question(name="q", messages=messages, right=right, example="")


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (42, "42"),
        (42, "The answer is 42."),
        (42, "17 + 25 = 42"),
        (42, "**42**"),
        (42, "42.0"),
        (42, "Forty-two."),
        (42, "Cela fait quarante-deux."),
        (42, "The two of them make 42."),
        (1250, "1,250"),
        (1250, "1 250"),
        (1250, "1\u202f250 grammes"),
        (3.5, "3,5"),
        (-4, "-4"),
        (-4, "It is \u22124."),
        (0, "zero"),
        (1, "One."),
        (71, "soixante et onze"),
        (97, "quatre-vingt-dix-sept"),
        (80, "quatre-vingts"),
        (180, "one hundred and eighty"),
        (300, "trois cents"),
        (17, "It stays 17."),
    ],
)
def test_a_figure_is_found_however_it_is_written(number: float, said: str) -> None:
    assert question("What is 17 + 25?", number=number).is_right(said)


@pytest.mark.parametrize(
    "said",
    ["", "17 + 25", "43", "41, 42, 43", "42 or 43", "forty", "Forty-two or forty-three.", "-42", "4.2", "420", "H42O"],
)
def test_another_figure_or_several_are_wrong(said: str) -> None:
    assert not question("What is 17 + 25?", number=42).is_right(said)


@pytest.mark.parametrize(
    ("expected", "said"),
    [
        (True, "Yes."),
        (True, "Oui, bien s\u00fbr."),
        (True, "That is true."),
        (False, "No, a whale is not a fish."),
        (False, "FALSE"),
    ],
)
def test_yes_and_no(expected: bool, said: str) -> None:
    assert question(yes=expected).is_right(said)
    assert not question(yes=not expected).is_right(said)


@pytest.mark.parametrize("said", ["", "Yes or no", "Oui. Non.", "Noted.", "Perhaps."])
def test_both_or_neither_is_no_answer(said: str) -> None:
    assert not question(yes=True).is_right(said)
    assert not question(yes=False).is_right(said)


@pytest.mark.parametrize(
    ("said", "is_right"),
    [
        ("Bogot\u00e1", True),
        ("It is BOGOTA, of course.", True),
        ("Bogota, not Lima.", True),
        ("It isn't Lima but Bogota", True),
        ("Bogota is larger than Lima.", True),
        ("Bogota est plus grande que Lima", True),
        ("Not Bogota.", False),
        ("Lima", False),
        ("Lima, Quito, Bogota", False),
        ("Bogota or Lima", False),
        ("Bogotan", False),
        ("", False),
    ],
)
def test_one_of_the_right_words_and_none_of_the_wrong(said: str, is_right: bool) -> None:
    rules: dict[str, Any] = {"says": ["Bogot\u00e1"], "not": ["Lima", "Quito"]}
    assert question(**rules).is_right(said) is is_right


@pytest.mark.parametrize(
    ("said", "is_right"),
    [
        ("3, 7, 12", True),
        ("Sorted: 3 < 7 < 12.", True),
        ("12, 3, 7 sorted is\n1. 3\n2. 7\n3. 12", False),  # the numbering could be guesses
        ("12, 3, 7 becomes 3, 7, 12.", True),
        ("12, 7, 3", False),
        ("3, 7", False),
        ("3, 7, 12, 12, 7, 3, 3, 12, 7, 3, 7, 12", False),
        ("", False),
    ],
)
def test_the_order_of_what_is_said_last(said: str, is_right: bool) -> None:
    assert question(order=["3", "7", "12"]).is_right(said) is is_right


@pytest.mark.parametrize(
    ("said", "is_right"),
    [
        ('{"a": [1, true]}', True),
        ('Here:\n```json\n{"a": [1.0, true]}\n```\nDone [1].', True),
        ('It is {"a": [1, true]}.', True),
        ('{"a": [1, 1]}', False),
        ('{"a": [1, true], "b": 2}', False),
        ('{"a": [1, true]', False),
        ("a: [1, true]", False),
        ("[" * 100_000, False),
        ("", False),
    ],
)
def test_json_by_its_value(said: str, is_right: bool) -> None:
    assert question(json={"a": [1, True]}).is_right(said) is is_right


@pytest.mark.parametrize(
    ("said", "is_right"),
    [
        ("Ab-1.", True),
        ('"Ab-1."', True),
        ("**\u00ab Ab-1. \u00bb**", True),
        ("Here it is:\nAb-1.", True),
        ("ab-1.", False),
        ("Ab-1", False),
        ("Ab-1. Ab-2.", False),
        ("Ab-0.\nAb-1.\nAb-2.\nAb-3.", False),
        ("", False),
    ],
)
def test_a_copy_to_the_letter(said: str, is_right: bool) -> None:
    assert question(copy="Ab-1.").is_right(said) is is_right


@pytest.mark.parametrize(
    ("said", "is_right"),
    [
        ('[look(at="x", n=2), stop()]', True),
        ('<|python_start|>[stop(now=True), look(n=2, at="x")]<|python_end|>', True),
        ('[look(at="x", n=2)]', False),
        ('[look(at="x", n=3), stop()]', False),
        ('[look(at="x", n=2), go()]', False),
        ('I call [look(at="x", n=2), stop()]', False),
        ("", False),
    ],
)
def test_calls_by_name_and_by_arguments_where_given(said: str, is_right: bool) -> None:
    calls = [{"name": "look", "arguments": {"at": "x", "n": 2}}, {"name": "stop"}]
    assert question(calls=calls).is_right(said) is is_right


def test_the_form_that_is_asked_for() -> None:
    asked = question("In at most four words, what is rain?", keeps=True, says=["water"])
    assert asked.is_right("Water from the sky.")
    assert not asked.is_right("Rain is water that falls from the sky.")
    assert not asked.is_right("I do not know.")


@given(st.text(), st.sampled_from(BUNDLED))
def test_no_text_is_too_strange(text: str, asked: Question) -> None:
    assert asked.is_right(text) in (True, False)


def test_figures_in_words_are_one_to_one() -> None:
    for figure in range(1000):
        for words in (probes._english(figure), probes._french(figure)):
            assert question(number=figure).is_right(words)
            assert not question(number=figure + 1).is_right(words)


def test_the_bundled_set_is_large_and_has_two_languages() -> None:
    assert len(BUNDLED) >= 80
    assert sum(asked.name.startswith("fr-") for asked in BUNDLED) >= 15
    assert {kind for asked in BUNDLED for kind in asked.right} >= {*probes._RULES} - {"calls"}
    assert not any(word in fold(json.dumps([*asked.messages])) for asked in BUNDLED for word in ("hockey", "stanley"))


@pytest.mark.parametrize("asked", BUNDLED, ids=lambda asked: asked.name)
def test_a_bundled_question_can_be_answered_rightly_and_wrongly(asked: Question) -> None:
    assert asked.is_right(asked.example)
    assert asked.is_right(f"\n{asked.example} ")
    assert not asked.is_right("")
    assert not asked.is_right(UNRELATED)
    assert not asked.is_right(asked.asked), "saying the question again is no answer"
    others = [other.example for other in BUNDLED if other.name != asked.name]
    assert sum(map(asked.is_right, others)) <= 6, "other questions' answers hardly ever fit"


def test_bundled_questions_are_different_and_begin_a_sound_row() -> None:
    answer = {"role": "assistant", "content": "Yes."}
    rows = [{"messages": [*asked.messages, answer]} for asked in BUNDLED]
    assert len({fingerprint(row) for row in rows}) == len(BUNDLED)
    for row in rows:
        assert not list(problems(row))


def test_enough_of_them_to_show_that_nothing_fell() -> None:
    """heartbeat/gate.toml allows a fall of 0.1: two models that answer alike must be able to pass it."""
    same = summarise([(i % 4 > 0, i % 4 > 0, 1) for i in range(len(BUNDLED))])
    assert same.difference is not None
    assert same.difference.low > -0.1


def test_scores_of_base_and_tuned() -> None:
    asked = [question(number=4), question(yes=True)]
    assert score(asked, ["4", "no"], ["5", "yes"]) == [Probe("q", True, False), Probe("q", False, True)]
    with pytest.raises(ValueError, match="2 questions, but 1 texts of the base and 2"):
        score(asked, ["4"], ["4", "yes"])


GOOD: dict[str, Any] = {
    "name": "a",
    "messages": [{"role": "user", "content": "2 + 2?"}],
    "right": {"number": 4},
    "example": "4",
}


def written(folder: Path, *lines: Any) -> Path:
    file = folder / "mine.jsonl"
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return file


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    (first, second) = load(written(tmp_path, GOOD, "", GOOD | {"name": "b"}))
    assert (first.name, second.name, first.asked) == ("a", "b", "2 + 2?")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is not JSON"),
        ("[]", "line 2 is no object"),
        ('{"name": "a", "name": "b"}', "line 2 has"),
        ({"name": "b"}, "line 2: messages is missing"),
        (GOOD | {"nam": 1}, "line 2: nam is no field"),
        (GOOD, "line 2: name = 'a' is taken"),
        (GOOD | {"name": ""}, "name = ''"),
        (GOOD | {"messages": "2 + 2?"}, "messages = '2 \\+ 2\\?'"),
        (GOOD | {"messages": [{"role": "user", "content": ""}]}, "messages = "),
        (GOOD | {"messages": [{"role": "user", "content": "a", "weight": 0}]}, "messages = "),
        (GOOD | {"messages": [{"role": "system", "content": "a"}]}, "must be the user's"),
        (GOOD | {"messages": GOOD["messages"] * 2}, "must be the user's"),
        (GOOD | {"right": 4}, "right = 4"),
        (GOOD | {"right": {"figure": 4}}, "right.figure is no rule"),
        (GOOD | {"right": {"number": True}}, "right.number = True"),
        (GOOD | {"right": {"number": "4"}}, "right.number = '4'"),
        (GOOD | {"right": {"says": ["4"]}}, "add `not`"),
        (GOOD | {"right": {"not": ["4"]}}, "with `says`"),
        (GOOD | {"right": {"says": [], "not": ["5"]}}, "right.says = "),
        (GOOD | {"right": {"keeps": True}}, "what the answer is about"),
        (GOOD | {"right": {"keeps": True, "says": ["4"]}}, "asks for no form"),
        (GOOD | {"right": {"order": ["4", "4"]}}, "right.order"),
        (GOOD | {"right": {"json": 4}}, "right.json"),
        (GOOD | {"right": {"copy": "4\n"}}, "right.copy"),
        (GOOD | {"right": {"calls": [{"arguments": {}}]}}, "right.calls"),
        (GOOD | {"example": "5"}, "example = '5'; it is not right"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_line(tmp_path: Path, line: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message) as caught:
        load(written(tmp_path, GOOD, line))
    assert str(caught.value).startswith("mine.jsonl")
    assert "\n" not in str(caught.value)


def test_files_that_hold_no_question(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="has no question"):
        load(written(tmp_path, ""))
    file = tmp_path / "latin.jsonl"
    file.write_bytes(b"\xe9")
    with pytest.raises(SettingError, match="is not UTF-8"):
        load(file)
