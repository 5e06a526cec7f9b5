"""The chat format against Meta's ChatFormat (recorded/make_meta_chat.py recorded what it writes).

Meta's code gives special tokens, and texts that its tokenizer encodes one by one: `pieces`. The same texts encoded with
the same tokenizer are the same tokens, so the pieces say all, without Llama 4's tokenizer.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from heartbeat.chat import render
from tests.training import meta
from training_code.tokenizer import ChatTokenizer

RECORDED = {each["name"]: each for each in json.loads((meta.RECORDED / "meta_chat.json").read_text())}
DIFFERENT = ("spaces", "parts", "call", "two calls", "quotes")
"""Dialogs that the project writes otherwise on purpose; a test below says how, and why."""


def metas(name: str) -> list[tuple[str, bool]]:
    return [(text, special) for text, special in RECORDED[name]["pieces"]]


def ours(name: str) -> list[tuple[str, bool]]:
    pieces = render(RECORDED[name]["messages"], generation_prompt=True)
    return [(piece.text, piece.special) for piece in pieces if piece.text]


def text(pieces: list[tuple[str, bool]]) -> str:
    return "".join(text for text, _ in pieces)


@pytest.mark.parametrize("name", [name for name in RECORDED if name not in DIFFERENT])
def test_is_metas_piece_by_piece(name: str) -> None:
    assert ours(name) == metas(name)


def test_a_tokenizer_gives_metas_tokens() -> None:
    tokenizer = ChatTokenizer(Path(__file__).parents[2] / "examples/tiny_base/checkpoint")
    for name in set(RECORDED) - set(DIFFERENT):
        expected: list[int] = []
        for piece, special in metas(name):
            plain = tokenizer._tokenizer.encode(piece, add_special_tokens=False).ids
            expected += [tokenizer.id_of(piece)] if special else plain
        assert list(tokenizer.encode(render(RECORDED[name]["messages"], generation_prompt=True)).ids) == expected


def test_space_around_contents_is_removed() -> None:
    """Meta's code leaves it to its caller; Hugging Face's template and ours remove it."""
    assert text(metas("spaces")) != text(metas("spaces removed"))
    assert ours("spaces") == ours("spaces removed") == metas("spaces removed")


def test_parts_of_a_content_are_one_text() -> None:
    """Meta's code encodes each part by itself; a server's template joins them before it encodes."""
    assert text(ours("parts")) == text(metas("parts"))
    assert ("goals", False) in ours("parts")


@pytest.mark.parametrize("name", ["call", "two calls"])
def test_calls_stand_between_markers_and_end_the_turn(name: str) -> None:
    """Meta's code writes calls bare, several as several lists, and ends them and their results with <|eom|>.

    Meta's prompt_format.md writes several calls as one list and ends them with <|eot|>, and so do we. The markers are
    the project's own: Meta's decoder and vLLM's parser drop them.
    """
    as_ours = re.sub(
        r"(assistant<\|header_end\|>\n\n)(\[.*?\])<\|eom\|>",
        lambda turn: f"{turn[1]}<|python_start|>{turn[2].replace('][', ', ')}<|python_end|><|eot|>",
        text(metas(name)),
    ).replace("<|eom|>", "<|eot|>")
    assert "<|python_start|>" in as_ours
    assert text(ours(name)) == as_ours


def test_values_in_calls_can_be_read_back() -> None:
    """Meta's code neither escapes quotes nor writes objects as Python does, so nothing could read the calls."""

    def call(pieces: list[tuple[str, bool]]) -> str:
        return next(piece for piece, _ in pieces if piece.startswith("[search"))

    with pytest.raises(SyntaxError):
        ast.parse(call(metas("quotes")))
    expression: Any = ast.parse(call(ours("quotes")), mode="eval").body
    read = {keyword.arg: ast.literal_eval(keyword.value) for keyword in expression.elts[0].keywords}
    assert read == {"query": '"goals"', "where": {"team": "MTL"}}
