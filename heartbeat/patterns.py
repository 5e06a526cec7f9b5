"""Searching for a schema's `pattern` without the patterns that never end.

Python's `re` goes back and tries again: `(a+)+$` takes twice as long for each further a, 37 s for 28 of them. Whether
that can happen is read off the pattern: how many quantifiers may take more or less, and how many ways alternatives
give. With q of the one and w of the other there are at most w * C(n + q + 1, q + 1) ways through a text of n
characters, as long as nothing that has a choice is itself repeated. A clock would do too, but what is found must not
depend on the machine; a matcher that never goes back would be a second definition of what a pattern means.
"""

from __future__ import annotations

import functools
import math
import re

_MOST_WAYS = 10_000_000
"""At most 0.03 s of one core where it was tried. With one quantifier that is texts of 4,470 characters, with the three
of an e-mail address 122."""
_LONGEST = 1000
"""Characters of a pattern, and repetitions of a group."""
_TOKEN = re.compile(
    r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?:|\(\?|[()|]|(?P<quantifier>(?:[*+?]|\{\d*(?P<more>,?)\d*\})[?+]?)|.",
    re.DOTALL,
)


def found(pattern: str, text: str) -> bool | None:
    """Whether the pattern is somewhere in the text; None where `re` may not be asked: see `is_searched`.

    Also None for a text that is too long for its pattern.
    """
    choices = _choices(pattern)
    if choices is None:
        return None
    quantifiers, ways = choices
    if ways * math.comb(len(text) + quantifiers + 1, quantifiers + 1) > _MOST_WAYS:
        return None
    return bool(re.search(pattern, text))


def is_searched(pattern: str) -> bool:
    """Whether texts are held against the pattern at all: not where it repeats what has a choice, looks ahead or behind,
    refers back, sets flags, or is no pattern."""
    choices = _choices(pattern)
    return choices is not None and choices[1] <= _MOST_WAYS


@functools.lru_cache(maxsize=256)
def _choices(pattern: str) -> tuple[int, int] | None:
    """Quantifiers that may take more or less, and the product of the alternatives; None where that bounds nothing."""
    if len(pattern) > _LONGEST:
        return None
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        return None
    quantifiers, ways = 0, 1
    open_groups = [_Group()]
    closed: _Group | None = None
    for token in _TOKEN.finditer(pattern):
        text, group = token[0], open_groups[-1]
        if token["quantifier"]:
            is_exact = text[0] == "{" and not token["more"]
            if closed and (closed.has_choice or max(map(int, re.findall(r"\d+", text)), default=0) > _LONGEST):
                return None
            quantifiers += not is_exact
            group.has_choice = True
        elif text == "(?" or re.fullmatch(r"\\[1-9]", text):
            return None
        elif text in ("(", "(?:"):
            open_groups.append(_Group())
        elif text == "|":
            group.branches += 1
            group.has_choice = True
        closed = None
        if text == ")":
            closed = open_groups.pop()
            ways *= closed.branches
            open_groups[-1].has_choice |= closed.has_choice
    return quantifiers, ways * open_groups[0].branches


class _Group:
    def __init__(self) -> None:
        self.branches = 1
        self.has_choice = False
        """Whether something in it may take more or less, or is repeated."""
