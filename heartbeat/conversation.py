"""One row of a dataset: a chat in OpenAI's form, its identity and its length in tokens.

    {"messages": [{"role": "system", "content": "…"},                 optional, first only
                  {"role": "user", "content": "…"},
                  {"role": "assistant", "content": null, "tool_calls": [{"id": "c1", "type": "function",
                      "function": {"name": "search", "arguments": "{\\"query\\": \\"…\\"}"}}]},
                  {"role": "tool", "tool_call_id": "c1", "content": "…"},
                  {"role": "assistant", "content": "…", "weight": 1}],
     "tools": [{"type": "function", "function": {"name": "search", "parameters": {…}}}]}

`arguments` may be an object or its JSON text; `tools` and `weight` (1 trains on the turn, 0 does not) are
optional; a further key, of the row or of a message, is kept and ignored. `heartbeat.row_rules` has the rules.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from heartbeat.json_lines import MOST_BYTES

Row = dict[str, Any]

BYTES_PER_TOKEN = 3.32
"""UTF-8 bytes of text in one token, an estimate: measured on examples/stanley/stanley.jsonl with the tokenizer in
PyPI's llama-models 0.3.0 (llama4/tokenizer.model), contents, tool calls and tool schemas together: 817,156 bytes
in 246,283 tokens. By kind of text it runs from 2.8 (JSON of tool results) and 3.3 (answers, two fifths of them French)
to 4.3 (the English system prompts); other languages and code will differ."""
TOKENS_PER_MESSAGE = 5
"""Around a message: Llama 4's header (two special tokens, the role, a line break) and its end of turn."""

UTF8_BOM = b"\xef\xbb\xbf"
LIST_OF_ROWS = (
    "is a JSON list of rows; write one object a line, as `jq -c '.[]' FILE > FILE.jsonl` does of a whole file"
)
_DEEPEST = 64  # Levels of nesting; a chat has seven, and its tools' schemas a few more.
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class RowError(ValueError):
    """A line that is no row at all; `code` is "encoding", "not_json", "duplicate_key", "not_an_object" or
    "line_too_long"."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ChatError(ValueError):
    """A conversation that cannot be written in Llama 4's chat format; the message says what, where, and the fix."""


@dataclass(frozen=True, kw_only=True)
class Length:
    """A row's estimated length in tokens, and how many of them the loss is taken on."""

    tokens: int
    supervised_tokens: int


def parse(line: bytes) -> Row:
    """The row that a line holds. Raises RowError for what is not one JSON object in UTF-8."""
    if len(line) > MOST_BYTES:
        raise RowError("line_too_long", f"is over {MOST_BYTES >> 20} MiB; write one conversation a line")
    if line.startswith(UTF8_BOM):
        raise RowError("encoding", "starts with a byte-order mark; save the file as UTF-8 without BOM")
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = f"byte 0x{line[error.start]:02x} at {error.start}"
        raise RowError("encoding", f"{byte} is not UTF-8; save the file as UTF-8") from None
    row = loads(text)
    if isinstance(row, list) and row and isinstance(row[0], dict) and "messages" in row[0]:
        raise RowError("not_an_object", LIST_OF_ROWS)
    if not isinstance(row, dict):
        raise RowError("not_an_object", f'is {kind(row)}; write one object a line: {{"messages": […]}}')
    return row


def loads(text: str) -> Any:
    """The value of a JSON text that every tool reads alike: no key twice, finite numbers, whole characters.

    Raises RowError.
    """
    return _value(text, _STRICT)


def _value(text: str, decoder: json.JSONDecoder) -> Any:
    try:
        value = decoder.decode(text)
    except RowError:
        raise
    except RecursionError:
        raise RowError("not_json", "is nested too deeply; write one JSON object a line") from None
    except json.JSONDecodeError as error:
        if error.pos >= len(text.rstrip()):
            fix = "write the whole object on one line, without line breaks"
            raise RowError("not_json", f"is not JSON: it ends before the object does; {fix}") from None
        place = f"{error.msg} at column {error.colno}"
        raise RowError("not_json", f"is not JSON: {place}; write one JSON object a line") from None
    except ValueError as error:
        if "set_int_max_str_digits" in str(error):
            most = sys.get_int_max_str_digits()
            raise RowError("not_json", f"has a number of over {most} digits; write it as a text, or shorter") from None
        raise RowError("not_json", f"is not JSON: {error}; write one JSON object a line") from None
    # Counting is quick, and most rows have fewer brackets than the levels that are allowed.
    if text.count("{") + text.count("[") > _DEEPEST and not _is_shallow(value, _DEEPEST):
        raise RowError("not_json", f"is nested over {_DEEPEST} levels deep; write one JSON object a line")
    if may_have_half_a_pair(text) and _LONE_SURROGATE.search(json.dumps(value, ensure_ascii=False)):
        raise RowError("encoding", "has half a surrogate pair (\\ud800-\\udfff); write the whole character")
    return value


def may_have_half_a_pair(text: str) -> bool:
    """Whether a JSON text has an escape of a surrogate, which may lack its other half."""
    return bool(_ESCAPED_SURROGATE.search(text))


def fingerprint(row: Mapping[str, Any]) -> bytes:
    """Digest of what a sound row says: the same for another order of keys, other call ids or extra keys."""
    return hashlib.sha256(said(row)).digest()


def said(row: Mapping[str, Any]) -> bytes:
    """Contents and calls of a sound row, written so that what is the same chat is the same bytes."""
    parts: list[str] = []
    for message in row["messages"]:
        content, calls = message.get("content") or "", message.get("tool_calls")
        told = CANONICAL.encode([_call_said(call) for call in calls]) if calls else ""
        # With the lengths before them no two conversations are written alike.
        parts.append(f"{message['role']} {len(content)} {len(told)} {content}{told}")
    return "".join(parts).encode()


def length(row: Mapping[str, Any]) -> Length:
    """Estimated length of a sound row: text by BYTES_PER_TOKEN, TOKENS_PER_MESSAGE around each message."""
    tools = row.get("tools")
    size = len(PLAIN.encode(tools).encode()) if tools else 0
    supervised_size = supervised_turns = 0
    for message in row["messages"]:
        said = len((message.get("content") or "").encode())
        for call in message.get("tool_calls") or ():
            function = call["function"]
            given = function["arguments"]
            text = given if isinstance(given, str) else PLAIN.encode(given)
            said += len(function["name"]) + len(text.encode())
        size += said
        if message["role"] == "assistant" and is_supervised(message):
            supervised_size += said
            supervised_turns += 1  # The end-of-turn token is learned too; the header is given.
    return Length(
        tokens=1 + TOKENS_PER_MESSAGE * len(row["messages"]) + round(size / BYTES_PER_TOKEN),
        supervised_tokens=supervised_turns + round(supervised_size / BYTES_PER_TOKEN),
    )


def tool_calls(message: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The message's tool calls; empty where it has none, or null."""
    return message.get("tool_calls") or ()


def arguments(call: Mapping[str, Any]) -> dict[str, Any]:
    """A sound tool call's arguments as an object, whether it holds them so or as JSON text. Not to be changed."""
    given = call["function"]["arguments"]
    found: dict[str, Any] = loads_again(given) if isinstance(given, str) else given
    return found


@functools.lru_cache(maxsize=64)
def loads_again(text: str) -> Any:
    """`loads` for the arguments of a call, which several parts of one check read. The value is not to be changed."""
    return loads(text)


def is_supervised(message: Mapping[str, Any]) -> bool:
    """Whether the loss is taken on this message: an assistant's, unless its `weight` is 0."""
    return bool(message["role"] == "assistant" and message.get("weight", 1) != 0)


def kind(value: Any) -> str:
    """What a JSON value is, in words: "a list", "an empty object", "null"."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, dict):
        return "an object" if value else "an empty object"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    return "a text" if isinstance(value, str) else "a number"


def _call_said(call: Mapping[str, Any]) -> list[Any]:
    return [call["function"]["name"], arguments(call)]


def _is_shallow(value: Any, levels: int) -> bool:
    if not isinstance(value, (dict, list)):
        return True
    parts = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_is_shallow(part, levels - 1) for part in parts)


def refuse_constant(name: str) -> NoReturn:
    """For a decoder's `parse_constant`: NaN and Infinity are Python's, not JSON's."""
    raise ValueError(f"{name} is not a JSON number")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        fix = "which tools read differently; keep one of them"
        raise RowError("duplicate_key", f"has the key {json.dumps(twice[:60])} twice in one object, {fix}")
    return found


_STRICT = json.JSONDecoder(object_pairs_hook=_without_duplicates, parse_constant=refuse_constant)
CANONICAL = json.JSONEncoder(sort_keys=True)
PLAIN = json.JSONEncoder(ensure_ascii=False)
