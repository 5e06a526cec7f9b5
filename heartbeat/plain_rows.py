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
from heartbeat.conversation import BYTES_PER_TOKEN, CANONICAL, PLAIN, TOKENS_PER_MESSAGE, Row, RowError
from heartbeat.tool_calls import why_call_unreadable

_DEEPEST = 32
"""Levels within a part of a row; with those around it fewer than a row may have."""
_ENDS = ("\n", "", "\r\n")
_BEFORE_USER = (None, "system", "assistant")
_BEFORE_ASSISTANT = ("user", "tool")


class Facts(NamedTuple):
    """What the statistics of a dataset need to know of a sound row."""

    fingerprint: bytes
    """As `conversation.fingerprint`."""
    tokens: int
    supervised_tokens: int
    """As `conversation.length` estimates both."""
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
    length = conversation.length(row)
    return Facts(
        fingerprint=conversation.fingerprint(row),
        tokens=length.tokens,
        supervised_tokens=length.supervised_tokens,
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
    if type(row) is not dict or text[end:] not in _ENDS:
        return None
    escaped = 0
    if "\\" in text:
        if conversation.may_have_half_a_pair(text):
            return None
        # A quote after two backslashes may be a quote that ends a text.
        escaped = text.count('\\"') if '\\\\"' not in text else _ESCAPES.findall(text).count('\\"')
    try:
        found = _walk(row)
    except (ValueError, RecursionError):  # of what is nested too deeply
        return None
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
            is_blank = not content or content.isspace()
        elif content is None:
            is_blank = True
        else:
            return None
        if is_blank != bool(calls):  # calls come without text, everything else with it
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
                told = f"[{', '.join(read.said)}]"
                bytes_said += read.size
                texts += read.texts
                waiting = read.ids
                called += read.names
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
    tokens = 1 + TOKENS_PER_MESSAGE * len(messages) + round(size / BYTES_PER_TOKEN)
    supervised_tokens = assistant_turns + round(supervised_size / BYTES_PER_TOKEN)
    fingerprint = hashlib.sha256("".join(said).encode()).digest()
    return Facts(fingerprint, tokens, supervised_tokens, assistant_turns, characters, tuple(called)), texts


class _Calls(NamedTuple):
    """What the calls of one message come to."""

    names: list[str]
    said: list[str]
    """As CANONICAL writes [name, arguments]"""
    ids: list[Any]
    size: int
    texts: int


def _calls(calls: Any, known: _Tools) -> _Calls | None:
    if type(calls) is not list:
        return None
    names: list[str] = []
    said: list[str] = []
    ids: list[Any] = []
    size = texts = 0
    for call in calls:
        function: Any = call.get("function") if type(call) is dict else None
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
        if known.forms is not None:
            form = known.forms.get(name)
            if form is None or not form.fits(arguments):
                return None
        if not _are_readable(name, tuple(arguments)):
            return None
        if all(type(value) is str for value in arguments.values()):
            pairs = [f"{_quoted(key)}: {_quoted(arguments[key])}" for key in sorted(arguments)]
            said.append(f"[{_quoted(name)}, {{{', '.join(pairs)}}}]")
        elif why_call_unreadable(name, arguments):
            return None
        else:
            said.append(CANONICAL.encode([name, arguments]))
        names.append(name)
        ids.append(call.get("id"))
        if type(given) is str:
            size += len(name) + (len(given) if given.isascii() else len(given.encode()))
        else:
            size += len(name) + len(PLAIN.encode(given).encode())
        is_usual = (
            len(call) == 3 and len(function) == 2 and {type(given), type(call.get("type")), type(ids[-1])} == _STR
        )
        texts += _USUAL_TEXTS if is_usual else _texts(call)
    return _Calls(names, said, ids, size, texts)


@functools.lru_cache(maxsize=1024)
def _are_readable(name: str, keys: tuple[str, ...]) -> bool:
    """Whether the endpoint reads a call of this name with texts under these keys."""
    return why_call_unreadable(name, dict.fromkeys(keys, "")) is None


class _Tools(NamedTuple):
    """A row's `tools`, which come again in row after row."""

    forms: Mapping[str, _Form] | None
    """Of the arguments, by name; None where the row does not say."""
    size: int
    texts: int


_NO_TOOLS = _Tools(None, 0, 0)


@functools.lru_cache(maxsize=64)
def _known_tools(marshalled: bytes) -> _Tools | None:
    """None where something is wrong with them, or not checked."""
    tools = marshal.loads(marshalled)
    declaring = row_rules.declared_tools(tools)
    parameters: Mapping[str, Mapping[str, Any]] = {}
    try:
        next(declaring)
    except StopIteration as end:
        parameters = end.value
    else:
        return None
    if any(schema.unchecked(given) for given in parameters.values()):
        return None
    size = len(PLAIN.encode(tools).encode()) if tools else 0
    return _Tools({name: _Form(given) for name, given in parameters.items()}, size, _texts(tools))


class _Form:
    """What arguments must be; quick where the schema only names required ones and texts, as most do."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._parameters = parameters
        properties: Any = parameters.get("properties")
        required: Any = parameters.get("required", [])
        self._is_simple = (
            parameters.keys() <= {"type", "properties", "required"}
            and parameters.get("type") == "object"
            and type(properties) is dict
            and all(type(one) is dict and one.keys() <= {"type", "description"} for one in properties.values())
            and type(required) is list
            and all(type(name) is str for name in required)
        )
        if self._is_simple:
            self._texts = {name for name, one in properties.items() if one.get("type") == "string"}
            self._required = frozenset(required)

    def fits(self, arguments: Mapping[str, Any]) -> bool:
        if self._is_simple and self._required <= arguments.keys():
            for name, value in arguments.items():
                if type(value) is not str or name not in self._texts:
                    break
            else:
                return True
        return not self._parameters or schema.mismatch(arguments, self._parameters) is None


def _texts(value: Any, levels: int = _DEEPEST) -> int:
    """How many texts a JSON value has, names of keys among them. Raises RecursionError where it is nested deeply."""
    if type(value) is str:
        return 1
    if type(value) is dict:
        own, parts = len(value), list(value.values())
    elif type(value) is list:
        own, parts = 0, value
    else:
        return 0
    if not levels:
        raise RecursionError
    return own + sum([_texts(part, levels - 1) for part in parts])


_USUAL_TEXTS = 9
"""Of {"id": …, "type": …, "function": {"name": …, "arguments": …}}, where all are texts."""
_STR = {str}
_quoted = json.encoder.encode_basestring_ascii
_COUNTED = frozenset({"role", "content", "tool_calls"})
_ESCAPES = re.compile(r"\\.")
_DECODER = json.JSONDecoder(parse_constant=conversation.refuse_constant)
