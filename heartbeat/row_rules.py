"""The rules that a row of a dataset must follow, each with a message that says what is wrong and the fix."""

from __future__ import annotations

import difflib
import json
import marshal
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from heartbeat import schema
from heartbeat.chat import CALLS_WITH_TEXT
from heartbeat.conversation import RowError, is_supervised, kind, loads_again, tool_calls
from heartbeat.tool_calls import why_call_unreadable

Severity = Literal["error", "warning"]

ROLES = ("system", "user", "assistant", "tool")

_OTHER_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "developer": "system",
    "function": "tool",
    "ipython": "tool",
}
_NEXT = {"system": ("user",), "user": ("assistant",), "assistant": ("user",), "tool": ("assistant",)}
_CALL = '{"type": "function", "function": {"name": …, "arguments": …}}'
_TOOL = '{"type": "function", "function": {"name": …, "parameters": {…}}}'


_Declared = Mapping[str, Mapping[str, Any]] | None
"""Parameters of the tools that a row declares, by name; None where it does not say."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is wrong with a row: a code for programs, words with the fix for people."""

    code: str
    message: str
    severity: Severity = "error"


def problems(row: Mapping[str, Any]) -> Iterator[Problem]:
    """Everything that is wrong with a row, in its own order."""
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        yield _error("no_messages", _without_messages(row, messages))
        return
    declared = yield from declared_tools(row.get("tools"))
    sound = True
    for i, message in enumerate(messages):
        if _is_plain(message):
            continue
        for problem in _message(f"messages[{i}]", message, declared):
            sound = sound and problem.severity == "warning"
            yield problem
    if sound:  # The order of messages that are wrong themselves would only repeat what was said.
        yield from _order(messages)
        yield from _supervision(messages)


def _is_plain(message: Any) -> bool:
    """Whether a message is text and nothing else, as most are: `_message` would find nothing, but take longer."""
    if type(message) is not dict or "tool_calls" in message or "weight" in message:
        return False
    content = message.get("content")
    return type(content) is str and bool(content) and not content.isspace() and message.get("role") in ROLES


def _message(at: str, message: Any, declared: _Declared) -> Iterator[Problem]:
    if not isinstance(message, dict):
        yield _error("bad_message", f"{at} is {kind(message)}; write an object with role and content")
        return
    role = message.get("role")
    if role not in ROLES:
        hint = meant_role(role)
        fix = f"write {hint!r}" if hint else f"the roles are {', '.join(ROLES)}"
        has = f"has role {_shown(role)}" if "role" in message else "has no role"
        yield _error("bad_role", f"{at} {has}; {fix}")
        return
    calls = message.get("tool_calls")
    if calls and role != "assistant":
        yield _error("bad_tool_call", f"{at} has role {role} and tool_calls; give them to the assistant")
    elif calls:
        yield from _tool_calls(at, message, declared)
    yield from _content(at, message)
    weight = message.get("weight")
    if weight is not None and (isinstance(weight, bool) or weight not in (0, 1)):
        yield _error("bad_weight", f"{at} has weight {_shown(weight)}; write 1 to train on it or 0 not to")


def meant_role(role: Any) -> str | None:
    """The role that is surely meant: another program's name for it, or its own in other letters. None for the rest."""
    name = role.strip().lower() if isinstance(role, str) else ""
    return name if name in ROLES else _OTHER_ROLES.get(name)


def _content(at: str, message: Mapping[str, Any]) -> Iterator[Problem]:
    role, content = message["role"], message.get("content")
    calls = message.get("tool_calls")
    if isinstance(content, str):
        # A tool may well have nothing to say; nobody else may.
        if not content.strip() and role != "tool" and not calls:
            yield _error("empty_content", f"{at} ({role}) is empty; write its text or drop the row")
    elif content is not None:
        yield _error("bad_content", f"{at} ({role}) has {kind(content)} as content; write it as one text")
    elif "function_call" in message:
        yield _error("bad_content", f"{at} has function_call, the old form; write tool_calls")
    elif role != "assistant" or not calls:
        fix = "only an assistant that calls tools may leave it out"
        fix = 'write "" where the tool had nothing to say' if role == "tool" else fix
        yield _error("empty_content", f"{at} ({role}) has no content; {fix}")


def _tool_calls(at: str, message: Mapping[str, Any], declared: _Declared) -> Iterator[Problem]:
    calls, sound = message["tool_calls"], True
    calls_read: list[tuple[str, dict[str, Any]]] = []
    if not isinstance(calls, list):
        yield _error("bad_tool_call", f"{at}.tool_calls is {kind(calls)}; write a list of calls")
        return
    for i, call in enumerate(calls):
        where = f"{at}.tool_calls[{i}]"
        name = _function_name(call)
        if name is None:
            yield _error("bad_tool_call", f"{where} names no function; write {_CALL}")
            sound = False
            continue
        if declared is not None and name not in declared:
            near = difflib.get_close_matches(name[:64], list(declared), n=1)
            fix = f"did you mean {near[0]!r}?" if near else "add it to tools or drop the call"
            yield _error("undeclared_tool", f"{where} calls {_shown(name)}, which is not in tools; {fix}")
        given = call["function"].get("arguments")
        found = _object(given)
        if isinstance(found, str):
            sound = False
            yield _error("bad_arguments", f"{where} has arguments {found}")
        else:
            calls_read.append((name, found))
            if declared is not None and declared.get(name):
                yield from _fit(where, name, found, declared[name])
    if sound and message.get("weight") != 0:
        yield from _servable(at, message, calls_read)


def _object(given: Any) -> dict[str, Any] | str:
    """The arguments of a call, given as an object or as its JSON text; for anything else what is wrong, in words."""
    value = given
    if isinstance(given, str):
        try:
            value = loads_again(given)
        except RowError as error:
            if error.code == "duplicate_key":
                return f"whose text {error}"
    return value if isinstance(value, dict) else f"{_shown(given)}, not a JSON object; write {{}} for none"


def _fit(where: str, tool: str, arguments: Mapping[str, Any], parameters: Mapping[str, Any]) -> Iterator[Problem]:
    unchecked = schema.unchecked_in(marshal.dumps(dict(parameters), 2))
    if unchecked:
        fix = "which is not checked; see heartbeat/schema.py for what is"
        yield _warning("unchecked_schema", f"{where}: the parameters of {_shown(tool)} use {_shown(unchecked)}, {fix}")
    mismatch = schema.mismatch(arguments, parameters)
    if mismatch:
        fix = "correct the call, or the parameters in tools"
        yield _error("arguments_mismatch", f"{where} calls {_shown(tool)} with arguments that {mismatch}; {fix}")


def _servable(at: str, message: Mapping[str, Any], calls: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterator[Problem]:
    content = message.get("content")
    problem = CALLS_WITH_TEXT if isinstance(content, str) and content.strip() else None
    problem = problem or next((found for call in calls if (found := why_call_unreadable(*call))), None)
    if problem:
        yield _warning("unservable_call", f"{at} cannot be read back by the endpoint: {problem}")


def declared_tools(tools: Any) -> Generator[Problem, None, _Declared]:
    """Yields what is wrong with `tools`; returns its parameters by name, None where the row does not say."""
    if tools is None:
        return None
    if not isinstance(tools, list):
        yield _error("bad_tools", f"tools is {kind(tools)}; write a list of {_TOOL}")
        return None
    declared: dict[str, Mapping[str, Any]] = {}
    for i, tool in enumerate(tools):
        name = _function_name(tool)
        if name is None:
            yield _error("bad_tools", f"tools[{i}] names no function; write {_TOOL}")
            return None
        if name in declared:
            yield _error("bad_tools", f"tools[{i}] declares {_shown(name)} again; drop one of them")
            return None
        parameters = tool["function"].get("parameters")
        if parameters is not None and not isinstance(parameters, dict):
            fix = 'write a JSON schema, {"type": "object", "properties": {…}}'
            yield _error("bad_tools", f"tools[{i}] has {kind(parameters)} as parameters; {fix}")
            return None
        declared[name] = parameters or {}
    return declared


def _function_name(entry: Any) -> str | None:
    function = entry.get("function") if isinstance(entry, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) and name else None


def _order(messages: Sequence[Mapping[str, Any]]) -> Iterator[Problem]:
    """The first message that is out of turn: what follows it would only be out of turn as well."""
    expected: tuple[str, ...] = ("system", "user")
    waiting: list[Any] = []  # ids of the calls whose result is yet to come; None for a call without id
    for i, message in enumerate(messages):
        role = message["role"]
        if role == "tool":
            call_id = message.get("tool_call_id")
            if not waiting:
                fix = "but no call waits for one; put the call before it"
                yield _error("tool_result_without_call", f"messages[{i}] is a tool's result, {fix}")
                return
            if call_id is not None and None not in waiting and call_id not in waiting:
                fix = f"the calls that wait are {_shown(waiting)}"
                yield _error("tool_result_without_call", f"messages[{i}] answers call {_shown(call_id)}; {fix}")
                return
            waiting.remove(call_id if call_id in waiting else waiting[0])
        elif waiting:
            fix = f"but {len(waiting)} tool call(s) before it have no result; add a tool message for each"
            yield _error("tool_call_without_result", f"messages[{i}] has role {role}, {fix}")
            return
        elif role not in expected:
            fix = f"where {' or '.join(expected)} must come; reorder or merge them"
            yield _error("bad_order", f"messages[{i}] has role {role} {fix}")
            return
        if role == "assistant":
            waiting = [call.get("id") for call in tool_calls(message)]
        expected = _NEXT[role]


def _supervision(messages: Sequence[Mapping[str, Any]]) -> Iterator[Problem]:
    role = messages[-1]["role"]
    if is_supervised(messages[-1]):
        return
    if not any(message["role"] == "assistant" for message in messages):
        yield _error("no_assistant", "has no assistant turn, so nothing to learn from; add the answer")
    elif not any(is_supervised(message) for message in messages):
        yield _error("no_assistant", "has weight 0 on every assistant turn; give one weight 1")
    elif role != "assistant":
        fix = "which trains nothing; add the answer or drop the message"
        yield _warning("unanswered", f"ends with a message of role {role}, {fix}")


def _without_messages(row: Mapping[str, Any], messages: Any) -> str:
    if "conversations" in row:
        return "has conversations (ShareGPT's form); write messages with role and content"
    if "messages" in row:
        return f"has {kind(messages)} as messages; write a list of a user's and an assistant's at least"
    near = difflib.get_close_matches("messages", [key for key in row if len(key) < 32], n=1)
    form = '{"messages": [{"role": "user", "content": "…"}, …]}'
    return f"has no messages; {f'rename {near[0]!r}' if near else f'write {form}'}"


def _error(code: str, message: str) -> Problem:
    return Problem(code=code, message=message)


def _warning(code: str, message: str) -> Problem:
    return Problem(code=code, message=message, severity="warning")


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
