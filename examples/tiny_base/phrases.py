"""Sentences of the same meaning, in English and French: language that the tiny base can meet nowhere else.

`sentences/*.toml` hold them in groups, `frames.toml` what questions are put together from; both were written for this
corpus by writers who had not seen the Stanley dataset. From them the corpus draws questions of a subject, and
exercises: say it again, in the other language, the same or not, which one means the same.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "sentences"


@dataclass(frozen=True)
class Group:
    """What means the same."""

    subject: str
    said: tuple[tuple[str, ...], tuple[str, ...]]
    """In English and in French; all have the same slots in braces (`Fill`)."""


Fill = Callable[[random.Random, bool], Mapping[str, str]]
"""A value for every slot there is, in French or in English."""


def _load() -> tuple[Group, ...]:
    found = []
    for path in sorted(FOLDER.glob("*.toml")):
        for group in tomllib.loads(path.read_text(encoding="utf-8"))["group"]:
            found.append(Group(group["subject"], (tuple(group["en"]), tuple(group["fr"]))))
    return tuple(found)


GROUPS = _load()

_FRAMES = tomllib.loads((FOLDER.parent / "frames.toml").read_text(encoding="utf-8"))
LANGUAGES = ("en", "fr")


def framed(rng: random.Random, subject: str, french: bool) -> str | None:
    """A question about a thing of the subject, with slots; None where no things of it are known."""
    about = thing(rng, subject, french)
    return about and _capital(rng, rng.choice(_FRAMES["frames"][LANGUAGES[french]]).replace("{thing}", about))


def thing(rng: random.Random, subject: str, french: bool) -> str | None:
    """Something to ask about, with slots; None where none of the subject is known."""
    return rng.choice(_FRAMES["things"][subject][LANGUAGES[french]]) if subject in _FRAMES["things"] else None


def paired(rng: random.Random, halves: tuple[str, str], french: bool) -> str:
    """One question about two things."""
    frame: str = rng.choice(_FRAMES["pairs"][LANGUAGES[french]])
    return _capital(rng, frame.replace("{thing}", halves[0]).replace("{other_thing}", halves[1]))


def joined(rng: random.Random, halves: tuple[str, str], french: bool) -> str:
    """Two questions, one after the other."""
    frame: str = rng.choice(_FRAMES["joins"][LANGUAGES[french]])
    return frame.replace("{first}", halves[0]).replace("{second}", halves[1])


def with_asides(rng: random.Random, question: str, french: bool) -> str:
    """With what people put before or after a question, now and then."""
    language = LANGUAGES[french]
    if rng.random() < BEFORE:
        question = f"{rng.choice(_FRAMES['before'][language])} {question}"
    if rng.random() < AFTER:
        question = f"{question} {rng.choice(_FRAMES['after'][language])}"
    return question


def _capital(rng: random.Random, said: str) -> str:
    return said[0].upper() + said[1:] if rng.random() < 0.8 else said


BEFORE, AFTER = 0.2, 0.15
"""Shares of questions with something before them, and after them."""
_BY_SUBJECT = {one.subject: [other for other in GROUPS if other.subject == one.subject] for one in GROUPS}


def of(*subjects: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """All sentences on these subjects, in English and in French."""
    groups = [group for group in GROUPS if group.subject in subjects]
    return tuple(tuple(text for group in groups for text in group.said[french]) for french in (False, True))  # type: ignore[return-value]


_AGAIN = (
    ("In other words: {}", "Say it differently: {}", "Another way to put this? {}"),
    ("Autrement dit : {}", "Redis autrement : {}", "En d'autres mots. {}"),
)
_TRANSLATE = (
    ("In English: {}", "En anglais : {}", "Say it in English. {}"),
    ("In French: {}", "En français : {}", "Dis-le en français. {}"),
)


def again(rng: random.Random, fill: Fill) -> tuple[str, str]:
    """The same in other words."""
    group, french = rng.choice(GROUPS), rng.random() < 0.45
    one, other = rng.sample(group.said[french], 2)
    return _asked(rng, _AGAIN[french], one, other, fill(rng, french))


def translate(rng: random.Random, fill: Fill) -> tuple[str, str]:
    """The same in the other language."""
    group, to_french = rng.choice(GROUPS), rng.random() < 0.55
    given, meant = rng.choice(group.said[not to_french]), rng.choice(group.said[to_french])
    return _asked(rng, _TRANSLATE[to_french], given, meant, fill(rng, to_french))


def _asked(
    rng: random.Random, asks: tuple[str, ...], given: str, answer: str, values: Mapping[str, str]
) -> tuple[str, str]:
    return rng.choice(asks).format(given.format_map(values)), answer.format_map(values)


def same(rng: random.Random, fill: Fill) -> tuple[str, str]:
    """Whether two sentences, in one language or two, mean the same."""
    french, is_same = rng.random() < 0.4, rng.random() < 0.5
    group = rng.choice(GROUPS)
    other = group if is_same else _unlike(rng, group, 1)[0]
    values = fill(rng, french)
    one, two = _two(rng, group, other)
    ask = rng.choice(
        ("Est-ce la même chose ? {} / {}", "« {} » et « {} » : pareil ?")
        if french
        else ("Do these mean the same? {} / {}", "“{}” and “{}”: the same?")
    )
    answer = (("Non.", "Oui.") if french else ("No.", "Yes."))[is_same]
    return ask.format(one.format_map(values), two.format_map(values)), answer


def which(rng: random.Random, fill: Fill) -> tuple[str, str]:
    """Which of some sentences means the same as another."""
    french = rng.random() < 0.4
    group = rng.choice(GROUPS)
    values = fill(rng, french)
    one, two = _two(rng, group, group)
    others = [rng.choice(rng.choice(unlike.said)) for unlike in _unlike(rng, group, rng.choice((1, 2, 3)))]
    listed = [two, *others]
    rng.shuffle(listed)
    lines = "\n".join(f"{number}. {text.format_map(values)}" for number, text in enumerate(listed, 1))
    ask = "Lequel veut dire ceci : {}" if french else "Which one means this: {}"
    said = two.format_map(values)
    answer = rng.choice((f"{listed.index(two) + 1}.", f"{listed.index(two) + 1}. {said}"))
    return f"{ask.format(one.format_map(values))}\n{lines}", answer


def _two(rng: random.Random, group: Group, other: Group) -> tuple[str, str]:
    one = rng.choice(rng.choice(group.said))
    return one, rng.choice([text for said in other.said for text in said if text != one])


def _unlike(rng: random.Random, group: Group, num: int) -> list[Group]:
    """Others; half of them on the same subject, which are harder to tell apart."""
    found: list[Group] = []
    while len(found) < num:
        other = rng.choice(_BY_SUBJECT[group.subject] if rng.random() < 0.5 else GROUPS)
        if other is not group and other not in found:
            found.append(other)
    return found
