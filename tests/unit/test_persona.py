"""The persona's rules: Stanley's defaults each kept and broken, and a user's file read or refused in one message."""

from __future__ import annotations

import pytest

from heartbeat import persona
from heartbeat.job import SettingError

DEFAULT = persona.load()


def broken(said: str, user: str = "How is Suzuki?", *, is_answer: bool = True) -> set[str]:
    found = (rule.problem(said, user, is_answer=is_answer) for rule in DEFAULT)
    return {problem.split(":")[0] for problem in found if problem}


@pytest.mark.parametrize(
    ("said", "rule"),
    [
        ("As an AI language model, I cannot watch games.", "no_ai_disclaimer"),
        ("I\u2019m just a large language model.", "no_ai_disclaimer"),
        ("I am an artificial intelligence.", "no_ai_disclaimer"),
        ("En tant qu\u2019intelligence artificielle, je ne sais pas.", "no_ai_disclaimer"),
        ("Je suis un modèle de langage.", "no_ai_disclaimer"),
        ("My training data ends in 2024.", "no_ai_disclaimer"),
        ("I'm Llama, nice to meet you.", "no_maker"),
        ("I was trained by Meta.", "no_maker"),
        ("Je suis conçu par Meta.", "no_maker"),
        ("You can call me Bob.", "no_other_name"),
        ("Je m'appelle Robert.", "no_other_name"),
    ],
)
def test_a_break_of_character_is_found(said: str, rule: str) -> None:
    assert rule in broken(said)


@pytest.mark.parametrize(
    "said",
    [
        "The league uses artificial intelligence to review goals.",
        "I am Stanley, an analyst of the Montreal Canadiens.",
        "My name is Stanley.",
        "Je m'appelle Stanley, analyste du Canadien.",
        "Suzuki had 3 goals; the team was built by Hughes.",
        "I am an air traveller's nightmare: I only know hockey.",
    ],
)
def test_what_stays_in_character_is_not(said: str) -> None:
    assert broken(said) == set()


def test_asked_who_he_is_he_says_so() -> None:
    assert broken("An analyst.", "Who are you?") == {"says_his_name"}
    assert broken("Un analyste.", "Qui es-tu ?") == {"says_his_name"}
    assert broken("I am Stanley.", "Who are you?") == set()
    assert broken("[call()]", "Who are you?", is_answer=False) == set()
    assert broken("An analyst.", "Who is he?") == set()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[rules.x]\nnever = ['(']", "persona.toml: rules.x.never = '('; correct the regular expression"),
        ("[rules.x]\nnever = 'bad'", "rules.x.never = 'bad'; write a list of regular expressions"),
        ("[rules.x]\nnever = []", "rules.x.never = []; write a list"),
        ("[rules.x]\nnever = [3]", "rules.x.never = [3]; write a list"),
        ("[rules.x]\nnevr = ['a']", "rules.x.nevr is no setting; did you mean 'never'?"),
        ("[rules.x]\nwhen = ['a']", "rules.x = {'when': ['a']}; add never or must"),
        ("[rule.x]\nnever = ['a']", "rule is no setting; did you mean 'rules'?"),
        ("rules = 3", "rules = 3; write tables, [rules.name]"),
        ("[rules]\nx = 3", "rules.x = 3; write a table, [rules.x]"),
        ("[rules.x", "persona.toml is not TOML"),
    ],
)
def test_a_mistake_is_one_message(text: str, words: str) -> None:
    with pytest.raises(SettingError) as raised:
        persona.read(text)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_persona_of_ones_own() -> None:
    (rule,) = persona.read("[rules.polite]\nmust = ['please']\nnever = ['damn']\n")
    assert rule.problem("Please wait.", "", is_answer=True) is None
    assert rule.problem("Wait.", "", is_answer=True) == "polite: does not say 'please'"
    assert rule.problem("damn, please", "", is_answer=True) == "polite: says 'damn'"


def test_no_rules_are_none() -> None:
    assert persona.read("") == []
