"""Requests on the form of an answer that a program can verify: its length, its format, its language.

Found in the words of the user's own question, in English and French. What is not understood is not verified, so the
patterns are narrow: a wrong request would count a good answer as a bad one.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from heartbeat.doubts import may_be

_NUMBERS = {
    word: number
    for number, words in enumerate(
        (
            ("a", "one", "single", "un", "une"),
            ("two", "deux"),
            ("three", "trois"),
            ("four", "quatre"),
            ("five", "cinq"),
            ("six",),
            ("seven", "sept"),
            ("eight", "huit"),
            ("nine", "neuf"),
            ("ten", "dix"),
        ),
        start=1,
    )
    for word in words
}
_N = rf"(?P<n>\d{{1,4}}|{'|'.join(_NUMBERS)})"
_N2 = _N.replace("?P<n>", "?P<m>")
_UNITS: dict[str, tuple[str, Callable[[str], int]]] = {
    "words": (r"(?:words?|mots?)", lambda text: len(re.findall(r"[^\W_]+(?:['\u2019-][^\W_]+)*", text))),
    "sentences": (r"(?:sentences?|phrases?)", lambda text: len(_sentences(text))),
    "lines": (r"(?:lines?|lignes?)", lambda text: sum(bool(line.strip()) for line in text.splitlines())),
    "paragraphs": (
        r"(?:paragraphs?|paragraphes?)",
        lambda text: sum(full for full, _ in itertools.groupby(text.splitlines(), lambda line: bool(line.strip()))),
    ),
    "items": (
        r"(?:bullet points?|bullets?|list items|puces|points de liste)",
        lambda text: len(re.findall(r"^[ \t]*(?:[-*\u2022]|\d{1,2}[.)])[ \t]+\S", text, re.MULTILINE)),
    ),
}
_AT_MOST = r"(?:at most|no more than|a maximum of|up to|au plus|au maximum|pas plus de|maximum)"
_UNDER = r"(?:fewer than|less than|under|moins de)"
_AT_LEAST = r"(?:at least|no fewer than|no less than|au moins)"
_OVER = r"(?:more than|over|plus de)"
_EXACTLY = r"(?:exactly|precisely|exactement|just|only|seulement)"
_AFTER_AT_MOST = r"(?:or (?:less|fewer)|at most|max(?:imum)?|ou moins|au plus|au maximum)"
_ADJECTIVE = r"(?:(?:single|short|brief|simple|courtes?|seules?)\s+){0,2}"
_LANGUAGES = {
    "en": "english|anglais",
    "fr": "french|français",
    "de": "german|allemand",
    "es": "spanish|espagnol",
    "it": "italian|italien",
    "pt": "portuguese|portugais",
    "nl": "dutch|néerlandais",
}
_ASK = (
    r"(?:answer|reply|respond|write|say|tell|explain|summari[sz]e|give|list|show|describe"
    r"|réponds?|répondez|écris|écrivez|dis|dites|explique|résume|donne|liste|montre|décris)"
)
_IN_LANGUAGE = rf"\b{_ASK}\b[^.?!;]{{0,60}}?\b(?:in|en)\s+"
_FORMATS: tuple[tuple[str, str], ...] = (
    ("JSON", r"\b(?:as|in|en|au format|format)\s+(?:valid\s+)?json\b"),
    (
        "a list",
        r"\b(?:as|in|into)\s+a\s+(?:bullet(?:ed)?|numbered)\s+list\b|\bsous forme de liste\b|\ben liste à puces\b",
    ),
    ("a table", r"\b(?:as|in)\s+a\s+(?:markdown\s+)?table\b|\bsous forme de tableau\b"),
    ("capitals", r"\bin\s+(?:all\s+caps|(?:all\s+)?capital letters|upper ?case)\b|\ben (?:lettres )?majuscules\b"),
    (
        "yes or no",
        r"\b(?:answer|reply|say)\s+(?:just\s+|only\s+|with\s+)?yes or no\b|\bréponds(?:-moi)? par oui ou non\b",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """One request: `asks` in words, and the test that an answer must pass."""

    asks: str
    is_kept_by: Callable[[str], bool]


def constraints(request: str) -> list[Constraint]:
    """The verifiable requests in a user's message; none in most messages."""
    text = " ".join(request.lower().replace("\u2019", "'").split())
    return [*_lengths(text), *_formats(text), *_languages(text)]


def _lengths(text: str) -> Iterator[Constraint]:
    for unit, (word, count) in _UNITS.items():
        limits = (
            (rf"\b{_AT_MOST}\s+{_N}\s+{word}\b|\b{_N2}\s+{word}\s+{_AFTER_AT_MOST}\b", "at most", 0),
            (rf"(?<!no )\b{_UNDER}\s+{_N}\s+{word}\b", "at most", -1),
            (rf"\b{_AT_LEAST}\s+{_N}\s+{word}\b", "at least", 0),
            (rf"(?<!no )(?<!pas )\b{_OVER}\s+{_N}\s+{word}\b", "at least", 1),
            (rf"\b(?:{_EXACTLY}|in|en)\s+{_N}\s+{_ADJECTIVE}{word}\b(?!\s+{_AFTER_AT_MOST})", "exactly", 0),
        )
        for pattern, how, shift in limits:
            found = re.search(pattern, text)
            if found:
                given = next(group for group in found.groupdict().values() if group)
                number = (_NUMBERS.get(given) or int(given)) + shift
                yield Constraint(asks=f"{how} {number} {unit}", is_kept_by=_compared(count, how, number))
                break


def _compared(count: Callable[[str], int], how: str, number: int) -> Callable[[str], bool]:
    if how == "at most":
        return lambda answer: bool(answer.strip()) and count(answer) <= number
    if how == "at least":
        return lambda answer: count(answer) >= number
    return lambda answer: count(answer) == number


def _formats(text: str) -> Iterator[Constraint]:
    for name, pattern in _FORMATS:
        if re.search(pattern, text):
            yield Constraint(asks=name, is_kept_by=_HAS_FORMAT[name])


def _languages(text: str) -> Iterator[Constraint]:
    found = [code for code, names in _LANGUAGES.items() if re.search(rf"{_IN_LANGUAGE}(?:{names})\b", text)]
    if len(found) == 1:  # "write it in English or in French" leaves the choice
        yield Constraint(asks=f"language {found[0]}", is_kept_by=lambda answer: may_be(answer, found[0]))


def _sentences(text: str) -> list[str]:
    # A point within a figure or after one letter ("St. Louis", "J. Price") ends nothing that one can tell from text.
    text = re.sub(r"\b(?:[A-Z]|St|Ste|Mr|Mrs|Dr|vs|M|Mme)\.", "", text)
    return [part for part in re.split(r"[.!?\u2026]+(?=\s|$|[\"'»\u201d)])", text) if re.search(r"\w", part)]


def _is_json(answer: str) -> bool:
    fenced = re.fullmatch(r"```(?:json)?\s*(.*?)\s*```", answer.strip(), re.DOTALL)
    try:
        value = json.loads(fenced[1] if fenced else answer)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict | list)


def _is_list(answer: str) -> bool:
    return _UNITS["items"][1](answer) >= 2


def _is_table(answer: str) -> bool:
    return bool(re.search(r"\|[^|\n]*\n[ \t]*\|?[ \t]*:?-{3,}", answer))


def _is_capitals(answer: str) -> bool:
    return answer.upper() == answer and any(map(str.isalpha, answer))


def _is_yes_or_no(answer: str) -> bool:
    return bool(re.fullmatch(r"\W*(?:yes|no|oui|non)\W*", answer.lower()))


_HAS_FORMAT: dict[str, Callable[[str], bool]] = {
    "JSON": _is_json,
    "a list": _is_list,
    "a table": _is_table,
    "capitals": _is_capitals,
    "yes or no": _is_yes_or_no,
}
