"""A quick reading of rows that nothing is wrong with, as nearly all are: parsed, held to the rules, summed up at once.

`read` knows a sound row when it sees one; of any other it says nothing, and `heartbeat.row_rules` says what is wrong
with it. Where both read a row they agree (a test with mutated rows), so what is found never depends on the way.
"""

from __future__ import annotations

import functools
import hashlib
import json
import marshal
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from heartbeat import conversation, row_rules, schema
from heartbeat.conversation import BYTES_PER_TOKEN, CANONICAL, PLAIN, TOKENS_PER_MESSAGE, Length, Row, RowError
from heartbeat.tool_calls import why_call_unreadable

_ENDS = ("\n", "", "\r\n")
_BEFORE_USER = (None, "system", "assistant")
_BEFORE_ASSISTANT = ("user", "tool")


class Facts(NamedTuple):
    """What the statistics of a dataset need to know of a sound row."""

    fingerprint: bytes
    """As `conversation.fingerprint`."""
    length: Length
    """As `conversation.length`."""
    assistant_turns: int
    characters: int
    """Of all messages' content."""
    called: tuple[str, ...]
    """Functions by name, one for each call."""


def facts_of(row: Row) -> Facts:
    """Of any sound row, whatever its form."""
    called: list[str] = []
    assistant_turns = characters = 0
    for message in row["messages"]:
        characters += len(message.get("content") or "")
        if message["role"] == "assistant":
            assistant_turns += 1
            called += [call["function"]["name"] for call in conversation.tool_calls(message)]
    return Facts(
        fingerprint=conversation.fingerprint(row),
        length=conversation.length(row),
        assistant_turns=assistant_turns,
        characters=characters,
        called=tuple(called),
    )


def read(line: bytes) -> tuple[Row, Facts] | None:
    """The row that a line holds, if it breaks no rule, not even one that only warns; None where that is not certain."""
    try:
        text = line.decode()
        row, end = _DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        return None
    if type(row) is not dict or text[end:] not in _ENDS or not conversation.is_shallow(text, row):
        return None
    if "\\" in text:
        if conversation.may_have_half_a_pair(text):
            return None
        escaped = text.count('\\"') if "\\\\" not in text else _ESCAPES.findall(text).count('\\"')
    else:
        escaped = 0
    found = _walk(row)
    # A key that is there twice is in the text twice, and once in what was parsed of it.
    return (row, found[0]) if found and text.count('"') - escaped == 2 * found[1] else None


def _walk(row: Row) -> tuple[Facts, int] | None:
    """The facts, and how many texts the row has, names of keys among them; None where a rule may be broken."""
    messages, tools = row.get("messages"), row.get("tools")
    if type(messages) is not list:
        return None
    known = _NO_TOOLS if tools is None else _known_tools(marshal.dumps(tools, 2))
    if known is None:
        return None
    texts = len(row) + known.texts
    if len(row) > 1 + (tools is not None):
        texts += sum(_texts(value) for key, value in row.items() if key not in ("messages", "tools"))
    size, supervised_size, assistant_turns, characters = known.size, 0, 0, 0
    said: list[str] = []
    called: list[str] = []
    waiting: list[Any] = []
    before: str | None = None
    for message in messages:
        if type(message) is not dict:
            return None
        role, content = message.get("role"), message.get("content")
        told, bytes_said = "", 0
        texts += len(message) + 1
        if len(message) == 2 and type(content) is str:
            calls = None
        elif "weight" in message or "function_call" in message:
            return None
        else:
            calls = message.get("tool_calls")
            for key, value in message.items():
                if key not in _COUNTED:
                    texts += 1 if type(value) is str else _texts(value)
        if type(content) is str:
            texts += 1
            bytes_said = len(content) if content.isascii() else len(content.encode())
        if calls:
            if content and not content.isspace():
                return None
        elif not content or type(content) is not str or content.isspace():
            return None

        # Whose turn it is
        if role == "user":
            if waiting or before not in _BEFORE_USER:
                return None
        elif role == "assistant":
            if waiting or before not in _BEFORE_ASSISTANT:
                return None
            assistant_turns += 1
            if calls:
                read = _calls(calls, known)
                if read is None:
                    return None
                told = CANONICAL.encode(read.said)
                bytes_said += read.size
                texts += read.texts
                waiting = read.ids
                called += [name for name, _ in read.said]
            supervised_size += bytes_said
        elif role == "tool":
            call_id = message.get("tool_call_id")
            if call_id not in waiting:
                return None
            waiting.remove(call_id)
        elif role != "system" or before is not None:
            return None
        if calls and role != "assistant":
            return None
        before = role
        size += bytes_said
        if content is None:
            content = ""
        characters += len(content)
        said.append(f"{role} {len(content)} {len(told)} {content}{told}")
    if before != "assistant":
        return None
    length = Length(
        tokens=1 + TOKENS_PER_MESSAGE * len(messages) + round(size / BYTES_PER_TOKEN),
        supervised_tokens=assistant_turns + round(supervised_size / BYTES_PER_TOKEN),
    )
    fingerprint = hashlib.sha256("".join(said).encode()).digest()
    return Facts(fingerprint, length, assistant_turns, characters, tuple(called)), texts


class _Calls(NamedTuple):
    """What the calls of one message come to."""

    said: list[tuple[str, Mapping[str, Any]]]
    ids: list[Any]
    size: int
    texts: int


def _calls(calls: Any, known: _Tools) -> _Calls | None:
    if type(calls) is not list:
        return None
    said: list[tuple[str, Mapping[str, Any]]] = []
    ids: list[Any] = []
    size = texts = 0
    for call in calls:
        function = call.get("function") if type(call) is dict else None
        name = function.get("name") if type(function) is dict else None
        if type(name) is not str or not name:
            return None
        given = arguments = function.get("arguments")
        if type(given) is str:
            try:
                arguments = conversation.loads_again(given)
            except RowError:
                return None
        if type(arguments) is not dict:
            return None
        if known.parameters is not None:
            parameters = known.parameters.get(name, _UNDECLARED)
            if parameters is _UNDECLARED or (parameters and schema.mismatch(arguments, parameters)):
                return None
        if not _are_readable(name, tuple(arguments)):
            return None
        for value in arguments.values():
            if type(value) is not str:
                if why_call_unreadable(name, arguments):
                    return None
                break
        said.append((name, arguments))
        ids.append(call.get("id"))
        written = given if type(given) is str else PLAIN.encode(given)
        size += len(name) + (len(written) if written.isascii() else len(written.encode()))
        texts += _texts(call)
    return _Calls(said, ids, size, texts)


@functools.lru_cache(maxsize=1024)
def _are_readable(name: str, keys: tuple[str, ...]) -> bool:
    """Whether the endpoint reads a call of this name with texts under these keys."""
    return why_call_unreadable(name, dict.fromkeys(keys, "")) is None


class _Tools(NamedTuple):
    """A row's `tools`, which come again in row after row."""

    parameters: Mapping[str, Mapping[str, Any]] | None
    """By name; None where the row does not say."""
    size: int
    texts: int


_NO_TOOLS = _Tools(None, 0, 0)
_UNDECLARED: Mapping[str, Any] = {"": None}


@functools.lru_cache(maxsize=64)
def _known_tools(marshalled: bytes) -> _Tools | None:
    """None where something is wrong with them, or not checked."""
    tools = marshal.loads(marshalled)
    declaring = row_rules.declared_tools(tools)
    try:
        next(declaring)
    except StopIteration as end:
        parameters = end.value
    else:
        return None
    if any(schema.unchecked(given) for given in parameters.values()):
        return None
    size = len(PLAIN.encode(tools).encode()) if tools else 0
    return _Tools(parameters, size, _texts(tools))


def _texts(value: Any) -> int:
    """How many texts a JSON value has, names of keys among them."""
    if type(value) is str:
        return 1
    if type(value) is dict:
        return len(value) + sum(map(_texts, value.values()))
    return sum(map(_texts, value)) if type(value) is list else 0


_COUNTED = frozenset({"role", "content", "tool_calls"})
_ESCAPES = re.compile(r"\\.")
_DECODER = json.JSONDecoder(parse_constant=conversation.refuse_constant)
