"""Tool calls written as Llama 4 writes them: `[name(argument="value", other=3)]`.

The form is what vLLM's `llama4_pythonic` parser reads back (vllm/tool_parsers/llama4_pythonic_tool_parser.py):
keyword arguments only, names of ASCII letters, digits and `_`, values that are Python literals.
`why_unreadable` says which calls that parser would not read. `heartbeat.tool_call_parser` is the inverse.
"""

from __future__ import annotations

import json
import keyword
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from heartbeat.conversation import ChatError

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_SURROGATE = re.compile("[\ud800-\udfff]")


def write_calls(tool_calls: Sequence[Any]) -> str:
    """The text of an assistant turn's `tool_calls` (OpenAI's form; arguments as JSON text or an object)."""
    return "[" + ", ".join(_written(*_parts(call)) for call in tool_calls) + "]"


def why_unreadable(tool_calls: Sequence[Any]) -> str | None:
    """What keeps vLLM's parser from reading these calls back, in words with the fix; None where nothing does."""
    return next((problem for call in tool_calls if (problem := why_call_unreadable(*_parts(call)))), None)


def why_call_unreadable(name: str, arguments: Mapping[str, Any]) -> str | None:
    """The same of one call."""
    return next(_problems(name, arguments), None)


def _written(name: str, arguments: Mapping[str, Any]) -> str:
    return f"{name}({', '.join(f'{key}={_literal(value)}' for key, value in arguments.items())})"


def _problems(name: str, arguments: Mapping[str, Any]) -> Iterator[str]:
    for word in (name, *arguments):
        if not _NAME.fullmatch(word) or keyword.iskeyword(word):
            yield (
                f"{word!r} in a call of {name!r} is no name that the served parser reads; use ASCII letters, digits "
                "and _, begin with a letter, and avoid Python's keywords"
            )
    for number in _numbers([value for value in arguments.values() if not isinstance(value, str)]):
        if not math.isfinite(number):
            yield f"{number} in a call of {name!r} is no number of JSON; write it as a string"


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, float | int) and not isinstance(value, bool):
        yield value


def _parts(call: Any) -> tuple[str, Mapping[str, Any]]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ChatError('a tool call must have the form {"type": "function", "function": {"name": …, "arguments": …}}')
    name, arguments = function["name"], function.get("arguments")
    if arguments is None or arguments == "":
        return name, {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            raise ChatError(f"the arguments of {name} are not JSON: {error}") from None
    if not isinstance(arguments, Mapping):
        raise ChatError(f"the arguments of {name} must be a JSON object, not {type(arguments).__name__}")
    return name, arguments


def _literal(value: Any) -> str:
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_quoted(str(key))}: {_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(_literal(item) for item in value) + "]"
    return repr(value)


def _quoted(text: str) -> str:
    """A literal that JSON and Python both read as `text`."""
    # A lone surrogate cannot be encoded as UTF-8, so neither tokenizer nor parser would take it unescaped.
    return _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(text, ensure_ascii=False))
