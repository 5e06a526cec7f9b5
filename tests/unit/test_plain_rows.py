"""The quick reading of plain rows: it agrees with the rules wherever it answers, and answers for sound rows."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heartbeat import conversation, dataset, doubts, plain_rows
from heartbeat.row_rules import problems

STANLEY = Path(__file__).parents[2] / "examples/stanley/stanley.jsonl"
LINES = STANLEY.read_bytes().splitlines(keepends=True)[:60]
ROWS = [json.loads(line) for line in LINES]
VALUES: list[Any] = [
    None, True, 0, 1, -1.5, "", " ", "x", "é", 'say "so"', "back\\slash", "\\\"", "user", "assistant", "tool", "system",
    [], {}, [[]], {"a": {"b": [1, "c"]}}, "{}", "[]", '{"a": -1}', '{"a": 1, "a": 2}', '{"class": 1}', "c1",
    "two\nlines", "a\ttab", "\\n", '{"query": "x", "query": "y"}', ' {"query": "\\u00e9"} ', '{"query": "a\\"b"}',
]  # fmt: skip
KEYS = ["role", "content", "tool_calls", "weight", "function_call", "tool_call_id", "id", "type", "arguments", "name",
        "tools", "messages", "extra", 'q"uote', "b\\"]  # fmt: skip


def agrees(line: bytes) -> bool:
    """Whether the quick reading answers. What it says must then be what the rules and the slow functions say."""
    found = plain_rows.read(line)
    if found is None:
        return False
    row, facts = found
    assert row == conversation.parse(line)
    assert not list(problems(row))
    assert facts == plain_rows.facts_of(row)
    return True


def containers(value: Any) -> list[Any]:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [value] * isinstance(value, dict | list) + [one for part in parts for one in containers(part)]


def mutated(row: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """With one to three changes: a value, a key, an entry left out, doubled or moved."""
    row = copy.deepcopy(row)
    for _ in range(draw.randint(1, 3)):
        at = draw.choice(containers(row))
        if isinstance(at, dict):
            key = draw.choice([*at, draw.choice(KEYS)])
            if draw.random() < 0.3:
                at.pop(key, None)
            else:
                at[key] = copy.deepcopy(draw.choice(VALUES))
        elif at:
            number = draw.randrange(len(at))
            change = draw.random()
            if change < 0.3:
                del at[number]
            elif change < 0.6:
                at.insert(number, copy.deepcopy(draw.choice(at)))
            elif change < 0.8:
                draw.shuffle(at)
            else:
                at[number] = copy.deepcopy(draw.choice(VALUES))
    return row


@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_sound_rows_are_read_quickly(ensure_ascii: bool) -> None:
    for row in ROWS:
        assert agrees(json.dumps(row, ensure_ascii=ensure_ascii).encode() + b"\r\n")


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(ROWS), st.randoms(use_true_random=False), st.booleans())
def test_quick_and_slow_agree_on_changed_rows(row: dict[str, Any], draw: random.Random, ensure_ascii: bool) -> None:
    agrees(json.dumps(mutated(row, draw), ensure_ascii=ensure_ascii).encode())


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(LINES), st.integers(0, 10_000), st.sampled_from([b"", b'"', b"\\", b"{", b"}", b",", b" ", b"\xff"])
)
def test_quick_and_slow_agree_on_changed_bytes(line: bytes, place: int, put: bytes) -> None:
    place %= len(line)
    agrees(line[:place] + put + line[place + 1 :])


@settings(max_examples=15, deadline=None)
@given(st.randoms(use_true_random=False))
def test_a_report_is_the_same_without_the_quick_reading(draw: random.Random) -> None:
    rows = [draw.choice(ROWS) if draw.random() < 0.5 else mutated(draw.choice(ROWS), draw) for _ in range(15)]
    lines = [json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows]
    quick = dataset.check(lines, held_out=LINES[:5])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain_rows, "read", lambda _line: None)
        assert dataset.check(lines, held_out=LINES[:5]) == quick


CHAT = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]%s}'


@pytest.mark.parametrize(
    "more",
    [
        ', "a": 1, "a": 2',
        ', "a": {"b": 1, "b": 1}',
        ', "a\\\\": 1, "a\\\\": ":"',
        ', "a": "\\\\", "a": "\\\\"',
        ', "tools": [], "tools": []',
        ', "a": NaN',
        ', "a": "\\ud800"',
        f', "a": {"[" * 70}{"]" * 70}',
        f', "a": {"[" * 700}{"]" * 700}',
        f', "tools": {"[" * 70}{"]" * 70}',
        "} {",
    ],
)
def test_what_only_the_text_shows_is_left_to_the_rules(more: str) -> None:
    line = (CHAT % more).encode()
    assert plain_rows.read(line) is None
    assert not dataset.check([line]).ok


@pytest.mark.parametrize(
    "more", ["", ', "a": ":"', ', "a": "\\"b\\": \\\\"', ', "tools": null', ', "é": [1, {"b": "c"}]']
)
def test_extra_keys_are_plain_too(more: str) -> None:
    assert agrees((CHAT % more).encode())


def test_no_secret_escapes_the_first_look() -> None:
    """Every needle is found in bytes, whatever is around it."""
    for needle in doubts._SECRETS:
        assert doubts.suspects(b"so: " + needle + b" x"), needle
    assert not doubts.suspects(b"nothing of that kind")
    for place, byte in (
        (place, byte) for piece in doubts._PIECES.values() for place, byte in enumerate(piece, start=1)
    ):
        assert doubts._PLACES[byte] == place
    for needle, piece in doubts._PIECES.items():
        assert piece in needle
