"""What the trainer writes, the server reads back."""

from __future__ import annotations

import json
import keyword
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heartbeat.tool_call_parser import ToolCall, parse_calls
from heartbeat.tool_calls import why_unreadable, write_calls

NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,12}", fullmatch=True).filter(lambda name: not keyword.iskeyword(name))
NUMBERS = st.integers(min_value=-(10**30), max_value=10**30) | st.floats(allow_nan=False, allow_infinity=False)
LEAVES = st.none() | st.booleans() | NUMBERS | st.text()
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=8
)
CALLS = st.lists(st.tuples(NAMES, st.dictionaries(NAMES, VALUES, max_size=4)), min_size=1, max_size=3)

NOT_CALLS = [
    "Suzuki leads.",
    "[see the table]",
    "[]",
    "[search(query='x'), 'and more']",
    "[search('positional')]",
    "[search(**{'query': 1})]",
    "[search(query=open('/etc/passwd'))]",
    "[search(query=1+1)]",
    "[search(query=b'bytes')]",
    "[search(query={**{}})]",
    "[os.system(cmd='x')]",
    "[search(query='x')",
    " [search(query='x')]",
    "[ search(query='x')]",
    "[search( query='x')]",
    "[search(query='x'),]",
    "[_search(query='x')]",
    "[search(query='x')]<|python_end|>",
    "[search(query=not 1)]",
    "[search(query=-True)]",
    "[search(query=f'{x}')]",
    "[search(query='two\nlines')]",
    "Here: [search(query='x')]",
    "[search(query='x')] done",
    "[" * 5000,
    "[f(x=" + "[" * 5000,
    "[f(x='\x00')]",
]
READ = [
    ("[f(x='a', y=2), g() ]", [ToolCall("f", {"x": "a", "y": 2}), ToolCall("g", {})]),
    ("[f(x=-1, y=+0.5)]", [ToolCall("f", {"x": -1, "y": 0.5})]),
    ("[f(x=(1, 2), y={'a'})]", [ToolCall("f", {"x": [1, 2], "y": ["a"]})]),
    ("[f(x={1: true, None: false})]", [ToolCall("f", {"x": {"1": True, "null": False}})]),
    ("[f(x=null, y=f'a')]", [ToolCall("f", {"x": None, "y": "a"})]),
    ("[f(x='y', x='z')]", [ToolCall("f", {"x": "z"})]),
    ("[f(x=1), a.b(2)]", [ToolCall("f", {"x": 1}), ToolCall("a.b", {})]),
    ("[f(x=1)]\nmore", [ToolCall("f", {"x": 1})]),
    ("<|python_start|>[f(x='<|python_end|>')]<|python_end|>", [ToolCall("f", {"x": ""})]),
]


@settings(deadline=None, max_examples=200)
@given(calls=CALLS, as_text=st.booleans(), marked=st.booleans())
def test_every_call_comes_back_as_it_was(calls: list[tuple[str, dict[str, Any]]], as_text: bool, marked: bool) -> None:
    sent = [
        {"type": "function", "function": {"name": n, "arguments": json.dumps(a) if as_text else a}} for n, a in calls
    ]
    assert why_unreadable(sent) is None
    text = write_calls(sent)

    read = parse_calls(f"<|python_start|>{text}<|python_end|>" if marked else text)
    assert read == [ToolCall(name, arguments) for name, arguments in calls]
    assert [type(v) for c in read for v in c.arguments.values()] == [type(v) for _, a in calls for v in a.values()]


@pytest.mark.parametrize("text", NOT_CALLS)
def test_anything_else_is_text(text: str) -> None:
    assert parse_calls(text) is None


@pytest.mark.parametrize(("text", "calls"), READ)
def test_what_vllm_reads_is_read(text: str, calls: list[ToolCall]) -> None:
    assert parse_calls(text) == calls
