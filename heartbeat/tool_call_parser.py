"""Tool calls read out of what the model said, as vLLM's `llama4_pythonic` parser reads them.

The inverse of `heartbeat.tool_calls`, and as lenient as vLLM 0.30.0: what the endpoint would hand to a tool is a call
here too. `make test-vllm` asks both.
"""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass
from typing import Any

from heartbeat.chat import PYTHON_END, PYTHON_START

_BEGIN = re.compile(r"\[[A-Za-z]\w*\((\)|[A-Za-z]\w*=)")
"""No space, no dot in the first name, and a letter before everything else."""
_END = re.compile(r"\)\s*\]")
_JSON_WORDS = {"true": True, "false": False, "null": None}


@dataclass(frozen=True)
class ToolCall:
    name: str
    arguments: dict[str, Any]


class _NotACallError(ValueError):
    """The text is ordinary text."""


def parse_calls(text: str) -> list[ToolCall] | None:
    """The calls that the turn consists of; None where it is anything else."""
    if text.startswith(PYTHON_START):
        text = text.removeprefix(PYTHON_START).replace(PYTHON_END, "")
    if not _BEGIN.match(text) or not _END.search(text):
        return None
    try:
        first = ast.parse(text).body[0]
        parsed = first.value if isinstance(first, ast.Expr) else None
        return [_call(element) for element in parsed.elts] if isinstance(parsed, ast.List) else None
    except (_NotACallError, SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None


def _call(node: ast.expr) -> ToolCall:
    if not isinstance(node, ast.Call):
        raise _NotACallError
    arguments = {_key(keyword.arg): _value(keyword.value) for keyword in node.keywords}
    # Through JSON as a client gets them: a key that is a number becomes text.
    return ToolCall(_name(node.func), json.loads(json.dumps(arguments)))


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value)}.{node.attr}"
    if isinstance(node, ast.Name):
        return node.id
    raise _NotACallError


def _key(name: str | None) -> str:
    if name is None:  # **{…}
        raise _NotACallError
    return name


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=str() | int() | float() | None):
            return node.value
        case ast.List() | ast.Tuple() | ast.Set():
            return [_value(item) for item in node.elts]
        case ast.Dict():
            return {_constant(key): _value(value) for key, value in zip(node.keys, node.values, strict=True)}
        case ast.Name() if node.id in _JSON_WORDS:
            return _JSON_WORDS[node.id]
        case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
            number = _value(node.operand)
            if isinstance(number, int | float) and not isinstance(number, bool):
                return -number if isinstance(node.op, ast.USub) else number
        case ast.JoinedStr() if all(isinstance(part, ast.Constant) for part in node.values):
            return "".join(str(_constant(part)) for part in node.values)
    raise _NotACallError


def _constant(node: ast.expr | None) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    raise _NotACallError
