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
from heartbeat.conversation import BYTES_PER_TOKEN, CANONICAL, PLAIN, TOKENS_PER_MESSAGE, Row
from heartbeat.json_lines import MOST_BYTES
from heartbeat.tool_calls import why_call_unreadable

_DEEPEST = 32
"""Levels within a part of a row; with those around it fewer than a row may have."""
_ENDS = ("\n", "", "\r\n")
_FIRST, _USER, _ASSISTANT, _TOOL = ("system", "user"), ("user",), ("assistant",), ("tool",)
"""Whose turn it is."""


class Facts(NamedTuple):
    """What the statistics of a dataset need to know of a sound row."""

    said: bytes
    """As `conversation.said`."""
    fingerprint: bytes
    """As `conversation.fingerprint`."""
    tokens: int
    supervised_tokens: int
    """As `conversation.length` estimates both."""
    assistant_turns: int
    questions: int
    """Turns of the user."""
    characters: int
    """Of all messages' content."""
    called: tuple[str, ...]
    """Functions by name, one for each call."""


def facts_of(row: Row) -> Facts:
    """Of any sound row, whatever its form."""
    called: list[str] = []
    assistant_turns = questions = characters = 0
    for message in row["messages"]:
        characters += len(message.get("content") or "")
        if message["role"] == "user":
            questions += 1
        elif message["role"] == "assistant":
            assistant_turns += 1
            called += [call["function"]["name"] for call in conversation.tool_calls(message)]
    length = conversation.length(row)
    return Facts(
        said=conversation.said(row),
        fingerprint=conversation.fingerprint(row),
        tokens=length.tokens,
        supervised_tokens=length.supervised_tokens,
        assistant_turns=assistant_turns,
        questions=questions,
        characters=characters,
        called=tuple(called),
    )


def read(line: bytes) -> tuple[Row, Facts] | None:
    """The row that a line holds, if it breaks no rule, not even one that only warns; None where that is not certain."""
    if len(line) > MOST_BYTES:
        return None
    try:
        text = line.decode()
        row, end = _DECODER.raw_decode(text)
        if text[end:] not in _ENDS:
            return None
        facts, texts = _walk(row)
    except _NOT_PLAIN:
        return None
    # A key that is there twice is in the text twice, and once in what was parsed of it.
    quotes, backslashes = text.count('"'), text.count("\\")
    if backslashes:
        escaped = text.count('\\"')
        if escaped < backslashes and escaped + text.count("\\n") < backslashes:
            if conversation.may_have_half_a_pair(text):
                return None
            if '\\\\"' in text:  # A quote after two backslashes may be a quote that ends a text.
                escaped = _ESCAPES.findall(text).count('\\"')
        quotes -= escaped
    return (row, facts) if quotes == 2 * texts else None


_NOT_PLAIN = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""How the reading of a row ends that has another form than expected, or may break a rule (ValueError)."""


def _walk(row: Any) -> tuple[Facts, int]:
    """The facts, and how many texts the row has, names of keys among them. Raises one of _NOT_PLAIN."""
    messages, tools = row["messages"], row.get("tools")
    known = _NO_TOOLS if tools is None else _known_tools(marshal.dumps(tools, 2))
    if known is None:
        raise ValueError
    texts = len(row) + known.texts
    if len(row) > 1 + (tools is not None):
        texts += sum([_texts(value) for key, value in row.items() if key not in ("messages", "tools")])
    assistant_turns = questions = characters = calls_size = supervised_size = 0
    said: list[str] = []
    called: list[str] = []
    waiting: list[Any] = []
    expected: tuple[str, ...] = _FIRST
    for message in messages:
        role, content, calls = message["role"], message.get("content"), None
        if role not in expected:
            raise ValueError
        texts += len(message) + 2  # its keys, role and content
        if len(message) > 2:
            calls = message.get("tool_calls")
            for key, value in message.items():
                if key not in _COUNTED:
                    texts += 1 if type(value) is str else _texts(value)
                    if key in _UNUSUAL:
                        raise ValueError
        if calls:
            if content is None:
                content = ""
                texts -= 1
            if role != "assistant" or content != "":
                raise ValueError
            told = "["
            for call in calls:
                name, call_id, call_said, size, its_texts = _call(call, known)
                told += f", {call_said}" if waiting else call_said
                called.append(name)
                waiting.append(call_id)
                calls_size += size
                texts += its_texts
            said.append(f"assistant 0 {len(told) + 1} {told}]")
            assistant_turns += 1
            expected = _TOOL
            continue
        if not content or content.isspace():
            raise ValueError
        characters += len(content)
        said.append(f"{role} {len(content)} 0 {content}")
        if role == "assistant":
            assistant_turns += 1
            supervised_size += len(content) if content.isascii() else len(content.encode())
            expected = _USER
        elif role == "tool":
            waiting.remove(message.get("tool_call_id"))
            expected = _TOOL if waiting else _ASSISTANT
        elif role == "user":
            questions += 1
            expected = _ASSISTANT
        else:
            expected = _USER
    if not assistant_turns or role != "assistant" or waiting:
        raise ValueError
    text = "".join(said)
    coded = text.encode()
    # What calls say is written in ASCII here: all further bytes are of contents.
    size = known.size + calls_size + characters + len(coded) - len(text)
    facts = Facts(
        coded,
        hashlib.sha256(coded).digest(),
        1 + TOKENS_PER_MESSAGE * len(messages) + round(size / BYTES_PER_TOKEN),
        assistant_turns + round((supervised_size + calls_size) / BYTES_PER_TOKEN),
        assistant_turns,
        questions,
        characters,
        tuple(called),
    )
    return facts, texts


def _call(call: Any, known: _Tools) -> tuple[str, Any, str, int, int]:
    """Name, id, what it says as CANONICAL writes [name, arguments], bytes, texts. Raises one of _NOT_PLAIN."""
    function = call["function"]
    name, given, call_id = function["name"], function["arguments"], call.get("id")
    arguments = _arguments(given) if type(given) is str else given
    are_texts = _STR.issuperset(map(type, arguments.values()))
    if not name or not _are_readable(name, tuple(arguments)):
        raise ValueError
    if known.forms is not None and not known.forms[name].fits(arguments, are_texts=are_texts):
        raise ValueError
    if are_texts:
        # Names are of ASCII letters, digits and _ here.
        pairs = ", ".join([f'"{key}": {_quoted(arguments[key])}' for key in sorted(arguments)])
        said = f'["{name}", {{{pairs}}}]'
    elif why_call_unreadable(name, arguments):
        raise ValueError
    else:
        said = CANONICAL.encode([name, arguments])
    if type(given) is type(call_id) is type(call.get("type")) is str and len(call) == 3 and len(function) == 2:
        texts = 9  # {"id": …, "type": …, "function": {"name": …, "arguments": …}}
    else:
        texts = _texts(call)
    text = given if type(given) is str else PLAIN.encode(given)
    size = len(name) + (len(text) if text.isascii() else len(text.encode()))
    return name, call_id, said, size, texts


def _arguments(text: str) -> dict[str, Any]:
    """As `conversation.loads`, quick where there is nothing but texts without escapes. Raises ValueError."""
    if "\\" not in text:
        quick: dict[str, Any]
        quick, end = _DECODER.raw_decode(text)
        if end == len(text) and text.count('"') == 4 * len(quick) and _STR.issuperset(map(type, quick.values())):
            return quick
    thorough: dict[str, Any] = conversation.loads_again(text)
    return thorough


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

    def fits(self, arguments: Mapping[str, Any], *, are_texts: bool) -> bool:
        """`are_texts`: whether all of their values are."""
        if are_texts and self._is_simple and self._required <= arguments.keys() <= self._texts:
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


_STR = {str}
_quoted = json.encoder.encode_basestring_ascii
_COUNTED = frozenset({"role", "content", "tool_calls"})
_UNUSUAL = frozenset({"weight", "function_call"})
_ESCAPES = re.compile(r"\\.")
_DECODER = json.JSONDecoder(parse_constant=conversation.refuse_constant)
