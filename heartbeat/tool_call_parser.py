"""Tool calls read out of what the model said, as vLLM's `llama4_pythonic` parser reads them.

The inverse of `heartbeat.tool_calls`. Strict: what is not wholly a list of calls with literal keyword arguments
is text, never a call that is partly right.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import Any

from heartbeat.chat import PYTHON_END, PYTHON_START

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True)
class ToolCall:
    name: str
    arguments: dict[str, Any]


class _NotACallError(ValueError):
    """The text is ordinary text."""


def parse_calls(text: str) -> list[ToolCall] | None:
    """The calls that the turn consists of; None where it is anything else."""
    text = text.strip()
    if text.startswith(PYTHON_START):
        text = text.removeprefix(PYTHON_START).removesuffix(PYTHON_END).strip()
    if not text.startswith("["):
        return None
    try:
        parsed = ast.parse(text, mode="eval").body
        if not isinstance(parsed, ast.List) or not parsed.elts:
            return None
        return [_call(element) for element in parsed.elts]
    except (_NotACallError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _call(node: ast.expr) -> ToolCall:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
        raise _NotACallError
    arguments: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None or keyword.arg in arguments or not _NAME.fullmatch(keyword.arg):
            raise _NotACallError
        arguments[keyword.arg] = _value(keyword.value)
    if not _NAME.fullmatch(node.func.id):
        raise _NotACallError
    return ToolCall(node.func.id, arguments)


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | bool | None):
        return node.value
    if isinstance(node, ast.List):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        return {_key(key): _value(value) for key, value in zip(node.keys, node.values, strict=True)}
    raise _NotACallError


def _key(node: ast.expr | None) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise _NotACallError
