"""Figures in a text, and which of them nothing that the model was given holds.

Digits only: a figure in words ("twelve goals") is not seen. A figure that follows from others (a sum, a difference)
counts as claimed without a source, since nobody can check an answer's arithmetic by its text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from decimal import Decimal, InvalidOperation

_SPACES = "\u00a0\u202f "
_FIGURE = re.compile(rf"(?<![\d.,])(?:\d{{1,3}}(?:[{_SPACES}]\d{{3}})+(?!\d)|\d+)?(?:[.,]\d+)*(?:\s?%)?")
"""Thousands apart by a space, as French writes them; decimals after a point or a comma, also without a zero."""
_SEASON = re.compile(r"(?<!\d)(\d\d)(\d\d)\s?[-\u2013/]\s?(\d\d)(?!\d)")
_ENUMERATION = re.compile(r"^[ \t]*\d{1,2}[.)]\s", re.MULTILINE)
"""`1. ` before an item of a list claims nothing."""


def unsupported(text: str, sources: Iterable[str]) -> list[str]:
    """The figures of `text` that no source holds, as they are written; each once, in order.

    The same however it is written (1,246 and 1246, 0.915 and ,915, 2024-25 and 2024-2025, 54.3% and 0.543), or
    rounded from a figure with more decimals.
    """
    known = {value for source in sources for value in _known(source)}
    text = _ENUMERATION.sub(" ", text)
    return list(dict.fromkeys(written for written in _written(text) if not _is_known(written, known)))


def _written(text: str) -> Iterator[str]:
    return (found[0] for found in _FIGURE.finditer(text) if any(map(str.isdigit, found[0])))


def _known(source: str) -> Iterator[Decimal]:
    for written in _written(source):
        yield from _readings(written)
        yield from (value for part in _parts(written) for value in _readings(part))
    for century, _, second in _SEASON.findall(source):
        yield Decimal(century + second)


def _is_known(written: str, known: set[Decimal]) -> bool:
    parts = _parts(written)
    if len(parts) > 1 and all(_is_known(part, known) for part in parts):
        return True  # 2015 361 is one figure or two
    for value in _readings(written):
        scaled = [value, value / 100] if written.endswith("%") else [value]
        if any(one in known or any(_rounds_to(other, one) for other in known) for one in scaled):
            return True
    return False


def _rounds_to(exact: Decimal, value: Decimal) -> bool:
    places, exact_places = _places(value), _places(exact)
    return exact_places > places and abs(exact - value) * 2 <= Decimal(10) ** -places


def _places(value: Decimal) -> int:
    exponent = value.as_tuple().exponent
    return -exponent if isinstance(exponent, int) else 0


def _parts(written: str) -> list[str]:
    return [part for part in re.split(rf"[{_SPACES}%]+", written) if part]


def _readings(written: str) -> set[Decimal]:
    """What a figure can mean: the last mark divides decimals or, before three digits, thousands."""
    digits = re.sub(rf"[{_SPACES}%]", "", written)
    texts = {digits.replace(",", "."), re.sub(r"[.,](?=\d{3}(?:\D|$))", "", digits).replace(",", ".")}
    found = set()
    for text in texts:
        try:
            found.add(Decimal(text))
        except InvalidOperation:  # 1.2.3, a version or a date: its parts are what can be known
            found |= {Decimal(part) for part in re.split(r"\.", text) if part}
    return found
