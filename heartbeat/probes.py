"""The general probe set: questions outside the dataset that a program can mark, asked before and after fine-tuning.

A file of JSON Lines, one question a line:

    {"name": "capital-japan", "messages": [{"role": "user", "content": "What is the capital of Japan?"}],
     "right": {"says": ["Tokyo"], "not": ["Kyoto", "Osaka"]}, "example": "It is Tokyo."}

`right` is what makes an answer right, all of what it names:

    "number": 42             it gives this figure and no other, in digits or words; those of the question do not count
    "yes": true              it says yes (true: yes, oui, true, vrai; false: no, non, false, faux), not both
    "says": [...]            it says one of these; `not`: and none of these, unless to deny them ("not Kyoto")
    "order": [...]           it ends with these in this order
    "json": ...              it is this JSON value, or holds it
    "copy": "..."            one of its lines is this, to the letter, but for quotes around it
    "calls": [{"name": "f", "arguments": {...}}]    it is these calls, in any order; without "arguments": of any
    "keeps": true            it keeps the form that the question asks for (`heartbeat.constraints`)

Capitals, accents and white space do not count but in `json`, `copy` and `calls`. `example` is an answer that is right.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from heartbeat import schema
from heartbeat.constraints import constraints
from heartbeat.conversation import RowError, loads
from heartbeat.job import SettingError
from heartbeat.scores import Probe
from heartbeat.tool_call_parser import parse_calls

FILE_NAME = "probes.jsonl"
"""Of the file that a base model's folder may hold beside config.json: its questions then replace the bundled ones."""
FILE = Path(__file__).with_name(FILE_NAME)

_FIELDS = ("name", "messages", "right", "example")
_MAX_COPY_LINES = 3
"""Of an answer that copies: room for a line before and after, none for guesses."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question. `messages` are as in a dataset's row and end with the user's; the module describes `right`."""

    name: str
    messages: Sequence[Mapping[str, Any]]
    right: Mapping[str, Any]
    example: str

    @property
    def asked(self) -> str:
        """The last message."""
        content: str = self.messages[-1]["content"]
        return content

    def is_right(self, text: str) -> bool:
        """Whether an answer (without its end-of-turn token) is right. Never raises."""
        return all(_RULES[kind].holds(expected, text, self) for kind, expected in self.right.items())


def load(path: Path = FILE) -> tuple[Question, ...]:
    """The questions of a file. Raises SettingError that names the file, the line, what is wrong and the fix."""
    try:
        lines = path.read_bytes().decode().split("\n")
    except UnicodeDecodeError as error:
        raise SettingError(f"{path.name} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    found: dict[str, Question] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            at = f"{path.name}, line {number}"
            question = _question(line, at)
            if question.name in found:
                raise SettingError(f"{at}: name = {question.name!r} is taken; give each question a name of its own")
            found[question.name] = question
    if not found:
        raise SettingError(f"{path.name} has no question; write one JSON object a line")
    return tuple(found.values())


@functools.cache
def bundled() -> tuple[Question, ...]:
    """The questions that are asked where the base model's folder brings none."""
    return load()


def of_base(folder: Path) -> tuple[Question, ...]:
    """The questions that a base model in this folder is asked: its own, or the bundled ones. Raises as `load`."""
    own = folder / FILE_NAME
    return load(own) if own.exists() else bundled()


def score(questions: Sequence[Question], base_texts: Sequence[str], tuned_texts: Sequence[str]) -> list[Probe]:
    """Who answered what rightly, texts in the order of the questions.

    Raises ValueError where they are not equally many.
    """
    if not len(questions) == len(base_texts) == len(tuned_texts):
        raise ValueError(
            f"{len(questions)} questions, but {len(base_texts)} texts of the base and {len(tuned_texts)} of the tuned "
            "model"
        )
    return [
        Probe(question.name, question.is_right(base), question.is_right(tuned))
        for question, base, tuned in zip(questions, base_texts, tuned_texts, strict=True)
    ]


# --- reading a file


def _question(line: str, at: str) -> Question:
    try:
        fields = loads(line)
    except RowError as error:
        raise SettingError(f"{at} {error}") from None
    if not isinstance(fields, dict):
        raise SettingError(f"{at} is no object; write one with {', '.join(_FIELDS)}")
    for name in _FIELDS:
        if name not in fields:
            raise SettingError(f"{at}: {name} is missing; a question has {', '.join(_FIELDS)}")
    for name in fields:
        if name not in _FIELDS:
            raise SettingError(f"{at}: {name} is no field; a question has {', '.join(_FIELDS)}")
    for name in ("name", "example"):
        if not isinstance(fields[name], str) or not fields[name].strip():
            raise _error(at, name, fields[name], "write a text")
    _check_messages(fields["messages"], at)
    _check_right(fields["right"], at)
    question = Question(**fields)
    if "keeps" in question.right and not constraints(question.asked):
        raise _error(at, "right.keeps", True, "the question asks for no form that is understood; drop it or reword")
    if not question.is_right(question.example):
        raise _error(at, "example", question.example, "it is not right by the question's own rule; correct one of them")
    if question.is_right(""):
        raise _error(at, "right", question.right, "saying nothing would be right; ask for something that is said")
    return question


def _check_messages(messages: Any, at: str) -> None:
    fix = 'write a list of {"role": …, "content": …}, a system message first or none, then user and assistant in turn'
    if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
        raise _error(at, "messages", messages, fix)
    for message in messages:
        content = message.get("content")
        if message.keys() != {"role", "content"} or not isinstance(content, str) or not content.strip():
            raise _error(at, "messages", message, fix)
    roles = [message["role"] for message in messages]
    turns = roles[1:] if roles[0] == "system" else roles
    if len(turns) % 2 == 0 or turns != [("user", "assistant")[i % 2] for i in range(len(turns))]:
        raise _error(at, "messages", roles, f"the last message must be the user's; {fix}")


def _check_right(right: Any, at: str) -> None:
    if not isinstance(right, dict) or not right:
        raise _error(at, "right", right, 'write what makes an answer right, such as {"number": 42}')
    for kind, expected in right.items():
        if kind not in _RULES:
            raise SettingError(f"{at}: right.{kind} is no rule; the rules are {', '.join(_RULES)}")
        if not _RULES[kind].may_be(expected):
            raise _error(at, f"right.{kind}", expected, _RULES[kind].fix)
    # One word of many, or a form alone, would be met by nearly any answer.
    if "not" in right and "says" not in right:
        raise _error(at, "right.not", right["not"], "say with `says` what is right")
    if "says" in right and not {"not", "keeps"} & right.keys():
        raise _error(at, "right.says", right["says"], "add `not`: wrong answers that a list of all would hold")
    if right.keys() == {"keeps"}:
        raise _error(at, "right", right, "add `says`: what the answer is about")


def _error(at: str, field: str, value: Any, fix: str) -> SettingError:
    shown = repr(value)
    return SettingError(f"{at}: {field} = {shown if len(shown) <= 60 else shown[:57] + '...'}; {fix}")


# --- the rules


@dataclass(frozen=True, kw_only=True)
class _Rule:
    """What a rule's value may be, how to put it right, and whether a text follows it."""

    may_be: Callable[[Any], bool]
    fix: str
    holds: Callable[[Any, str, Question], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) and one.strip() for one in value)


def _are_calls(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(call, dict)
            and {"name"} <= call.keys() <= {"name", "arguments"}
            and isinstance(call["name"], str)
            and isinstance(call.get("arguments", {}), dict)
            for call in value
        )
    )


def _gives(number: float, text: str, question: Question) -> bool:
    expected = Decimal(str(number))
    # An answer may say the question again, and give other figures of it on the way.
    given = {*_in_digits(question.asked), *_in_words(question.asked)} - {expected}
    in_digits = set(_in_digits(text)) - given
    # "The two of them make 5": a word beside figures counts something else.
    return (in_digits or set(_in_words(text, one=number == 1)) - given) == {expected}


def _affirms(expected: bool, text: str, _question: Question) -> bool:
    words = set(re.findall(r"\w+", fold(text)))
    return (bool(words & _YES), bool(words & _NO)) == (expected, not expected)


def _says(terms: Sequence[str], text: str, _question: Question) -> bool:
    plain = fold(text)
    return any(_asserts(plain, term) for term in terms)


def _says_none(terms: Sequence[str], text: str, _question: Question) -> bool:
    plain = fold(text)
    return not any(_asserts(plain, term) for term in terms)


def _ends_in_order(items: Sequence[str], text: str, _question: Question) -> bool:
    plain = fold(text)
    said = sorted((found.start(), item) for item in items for found in _places(plain, item))
    # The question's own list may come before; more of them would be guesses.
    return [item for _, item in said[-len(items) :]] == list(items) and len(said) <= 2 * len(items)


def _holds_json(value: Any, text: str, _question: Question) -> bool:
    return any(schema.same(value, found) for found in _json_values(text))


def _copies(copied: str, text: str, _question: Question) -> bool:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return len(lines) <= _MAX_COPY_LINES and any(line == copied or _unquoted(line) == copied for line in lines)


def _calls(expected: Sequence[Mapping[str, Any]], text: str, _question: Question) -> bool:
    made = parse_calls(text) or []
    return len(made) == len(expected) and any(
        all(
            call.name == wanted["name"] and schema.same(wanted.get("arguments", call.arguments), call.arguments)
            for call, wanted in zip(made, order, strict=True)
        )
        for order in itertools.permutations(expected)
    )


def _keeps(_expected: bool, text: str, question: Question) -> bool:
    return all(constraint.is_kept_by(text) for constraint in constraints(question.asked))


_TEXTS = "write a list of texts"
_RULES: Mapping[str, _Rule] = {
    "number": _Rule(may_be=_is_number, fix="write a number", holds=_gives),
    "yes": _Rule(may_be=lambda value: isinstance(value, bool), fix="write true or false", holds=_affirms),
    "says": _Rule(may_be=_are_texts, fix=_TEXTS, holds=_says),
    "not": _Rule(may_be=_are_texts, fix=_TEXTS, holds=_says_none),
    "order": _Rule(
        may_be=lambda value: _are_texts(value) and len({fold(one) for one in value}) == len(value) > 1,
        fix="write a list of two texts or more, each once",
        holds=_ends_in_order,
    ),
    "json": _Rule(
        may_be=lambda value: isinstance(value, dict | list), fix="write an object or a list", holds=_holds_json
    ),
    "copy": _Rule(
        may_be=lambda value: isinstance(value, str) and value == value.strip() != "" and len(value.splitlines()) == 1,
        fix="write one line, no space around it",
        holds=_copies,
    ),
    "calls": _Rule(
        may_be=lambda value: _are_calls(value) and len(value) <= 4,
        fix='write a list of one to four {"name": …, "arguments": {…}}',
        holds=_calls,
    ),
    "keeps": _Rule(may_be=lambda value: value is True, fix="write true, or drop it", holds=_keeps),
}


# --- what a text says

_YES = frozenset({"yes", "oui", "true", "vrai"})
_NO = frozenset({"no", "non", "false", "faux"})
_DENIED = re.compile(
    r"(?:\b(?:not|never|than|unlike|pas|jamais|contrairement a)|n't|\bplus \w+ que)[\s\"'*]+(?:\w{1,4}[\s\"'*]+)?$"
)
"""Ends what comes before a term that is named to be denied: not (the) X, larger than X, pas (la) X."""
_DENIAL_CHARACTERS = 40
_QUOTES = {'"': '"', "'": "'", "`": "`", "\u201c": "\u201d", "\u2018": "\u2019", "\u00ab": "\u00bb", "*": "*"}


def fold(text: str) -> str:
    """Small letters without accents, straight apostrophes, single spaces."""
    letters = unicodedata.normalize("NFKD", text.replace("\u2019", "'").casefold())
    return " ".join("".join(letter for letter in letters if not unicodedata.combining(letter)).split())


def _places(plain: str, term: str) -> Iterator[re.Match[str]]:
    """Where a folded text has a term, as words of their own."""
    return re.finditer(rf"(?<!\w){re.escape(fold(term))}(?!\w)", plain)


def _asserts(plain: str, term: str) -> bool:
    return any(
        not _DENIED.search(plain[max(0, found.start() - _DENIAL_CHARACTERS) : found.start()])
        for found in _places(plain, term)
    )


def _unquoted(line: str) -> str:
    while len(line) > 2 and _QUOTES.get(line[0]) == line[-1]:
        line = line[1:-1].strip()
    return line


def _json_values(text: str) -> Iterator[Any]:
    """The text as JSON, or what it holds of it: in a fence, or from the first bracket on."""
    fenced = re.search(r"```(?:json)?\s*(.*?)```", text, re.DOTALL)
    for part in (text, fenced[1] if fenced else ""):
        begin = re.search(r"[\[{]", part)
        if begin:
            try:
                yield json.JSONDecoder().raw_decode(part, begin.start())[0]
            except (ValueError, RecursionError):
                continue


# --- figures in digits and words


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_DIGITS = re.compile(
    r"(?P<minus>(?<![\w)])[-\u2212])?(?<![\w.,])"
    r"(?P<whole>\d{1,3}(?:[ ,'\u00a0\u202f\u2019]\d{3})+(?!\d)|\d+)(?:[.,](?P<decimals>\d+))?"
)
"""Thousands apart by a space, a comma or an apostrophe; decimals after a point or a comma."""
_MOST_IN_WORDS = 999
_LONGEST_IN_WORDS = 7
"""Words of a figure, "and" among them."""
_ENGLISH = _words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_ENGLISH_TENS = _words("twenty thirty forty fifty sixty seventy eighty ninety")
_FRENCH = _words("zero un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize")
_FRENCH_TENS = _words("dix vingt trente quarante cinquante soixante")


def _in_digits(text: str) -> Iterator[Decimal]:
    for found in _DIGITS.finditer(text):
        whole = re.sub(r"\D", "", found["whole"])
        yield Decimal(f"{'-' if found['minus'] else ''}{whole}.{found['decimals'] or 0}")


def _in_words(text: str, *, one: bool = False) -> Iterator[Decimal]:
    """English and French, to 999, the longest reading first; `one`: also a lone one, un or une, an article mostly."""
    words, known = re.findall(r"[a-z]+", fold(text)), _figures_in_words()
    start = 0
    while start < len(words):
        for end in range(min(start + _LONGEST_IN_WORDS, len(words)), start, -1):
            figure = known.get(" ".join(word for word in words[start:end] if word not in ("and", "et")))
            if figure is not None and (figure != 1 or one):
                yield Decimal(figure)
            if figure is not None:
                start = end
                break
        else:
            start += 1


@functools.cache
def _figures_in_words() -> Mapping[str, int]:
    """Folded, without hyphens and "and"."""
    found = {"une": 1, "hundred": 100, "a hundred": 100, "quatre vingts": 80}
    found |= {f"{_FRENCH[hundreds]} cents": 100 * hundreds for hundreds in range(2, 10)}
    for figure in range(_MOST_IN_WORDS + 1):
        found |= {_english(figure): figure, _french(figure): figure}
    return found


def _english(figure: int) -> str:
    if figure < 20:
        return _ENGLISH[figure]
    if figure >= 100:
        hundreds, rest = divmod(figure, 100)
        head = f"{_ENGLISH[hundreds]} hundred"
    else:
        tens, rest = divmod(figure, 10)
        head = _ENGLISH_TENS[tens - 2]
    return f"{head} {_english(rest)}" if rest else head


def _french(figure: int) -> str:
    if figure < 17:
        return _FRENCH[figure]
    if figure >= 100:
        hundreds, rest = divmod(figure, 100)
        head = "cent" if hundreds == 1 else f"{_FRENCH[hundreds]} cent"
    elif figure >= 80:
        head, rest = "quatre vingt", figure - 80
    else:
        tens = min(figure // 10, 6)  # seventy is soixante-dix
        head, rest = _FRENCH_TENS[tens - 1], figure - 10 * tens
    return f"{head} {_french(rest)}" if rest else head
