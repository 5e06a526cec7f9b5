"""A dataset's repair: what can be put right without a guess is, a row that cannot is dropped, and all of it is said."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from heartbeat import conversation, json_lines
from heartbeat.conversation import UTF8_BOM, Row, RowError
from heartbeat.row_rules import Problem, meant_role, problems
from heartbeat.similar import SeenRows

DROPPED = "dropped it: "
"""How the last change of a dropped line begins."""
_UTF8_BEYOND_ASCII = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")


@dataclass(frozen=True, kw_only=True)
class Repaired:
    """One line of the repaired copy."""

    line: int
    """Where it stood, from 1."""
    text: bytes | None
    """What to write, its end included; None for a line that is dropped. A sound row is written as it was."""
    changes: tuple[str, ...]
    """What was done, in words; empty where nothing was."""
    dropped: str | None = None
    """Of a dropped line the code of what is wrong with it, as the check's findings have."""


def repair(lines: Iterable[bytes]) -> Iterator[Repaired]:
    """Line by line, blank ones left away. Memory: the longest line, and 24 MiB to tell duplicates."""
    seen = SeenRows()
    for number, line in json_lines.numbered(lines):
        changes: list[str] = []
        if line.startswith(UTF8_BOM):
            line = line.removeprefix(UTF8_BOM)
            changes.append("took away the byte-order mark")
        if not line.strip():
            continue
        row, untouched, why = None, False, None
        try:
            row, untouched = _read(line, changes)
        except RowError as error:
            why = Problem(code=error.code, message=str(error))
        if row is not None:
            before = len(changes)
            row = _row(row, changes)
            untouched = untouched and len(changes) == before
            why = next((problem for problem in problems(row) if problem.severity == "error"), None)
        same = seen.first(_lesson(row), number) if row is not None and not why else None
        if same:
            why = Problem(code="duplicate", message=f"it says the same as line {same}")
        if row is None or why:
            assert why is not None
            dropped = f"{DROPPED}{why.message}"
            yield Repaired(line=number, text=None, changes=(*changes, dropped), dropped=why.code)
            continue
        text = line if untouched else json.dumps(row, ensure_ascii=False).encode()
        yield Repaired(line=number, text=text.rstrip(b"\r\n") + b"\n", changes=tuple(changes))


def _read(line: bytes, changes: list[str]) -> tuple[Row, bool]:
    """The row, and whether the line may be written as it is. Raises RowError where reading it would take a guess."""
    try:
        return conversation.parse(line), True
    except RowError as error:
        if error.code not in ("encoding", "duplicate_key"):
            raise
        fault = error
    text, is_utf8 = _decoded(line)
    if fault.code == "encoding" and is_utf8:
        raise fault  # half a surrogate pair, of which nobody knows the other half
    try:
        row = json.loads(text)
        written = json.dumps(row, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise fault from None
    if not is_utf8:
        changes.append("read it as Windows-1252 and wrote UTF-8")
    if fault.code == "duplicate_key":
        changes.append("kept the last of keys that were there twice")
    return conversation.parse(written), False  # What is written must be what every tool reads alike.


def _decoded(line: bytes) -> tuple[str, bool]:
    """The text, and whether the line is UTF-8; else it is read as Windows-1252. Raises RowError where it is neither."""
    try:
        return line.decode(), True
    except UnicodeDecodeError as error:
        byte = f"byte 0x{line[error.start]:02x} at {error.start}"
    if _UTF8_BEYOND_ASCII.search(line):
        # As Windows-1252 its other characters would come out as two or three wrong ones each.
        raise RowError("encoding", f"{byte} is not UTF-8, as the rest is: the character is lost")
    try:
        return line.decode("cp1252"), False
    except UnicodeDecodeError:
        raise RowError("encoding", f"{byte} is neither UTF-8 nor Windows-1252") from None


def _lesson(row: Row) -> bytes:
    """Digest of all that a sound row teaches: what it says, which turns count, and the tools that it declares."""
    weights = [conversation.is_supervised(message) for message in row["messages"]]
    more = conversation.CANONICAL.encode([weights, row.get("tools")])
    return hashlib.sha256(conversation.said(row) + more.encode()).digest()


def _row(row: Row, changes: list[str]) -> Row:
    if "messages" not in row and isinstance(row.get("conversations"), list):
        row = {"messages": [_sharegpt(one) for one in row["conversations"]]} | {
            key: value for key, value in row.items() if key != "conversations"
        }
        changes.append("wrote conversations (ShareGPT's form) as messages")
    messages = row.get("messages")
    if not isinstance(messages, list):
        return row
    repaired = [_message(message, changes) if isinstance(message, dict) else message for message in messages]
    while len(repaired) > 1 and _is_unanswered(repaired[-1]):
        repaired.pop()
        changes.append("dropped the last message, which nobody answers")
    return {**row, "messages": repaired}


def _sharegpt(one: Any) -> Any:
    if isinstance(one, dict) and "from" in one and "value" in one:
        return {"role": one["from"], "content": one["value"]}
    return one


def _message(message: Mapping[str, Any], changes: list[str]) -> dict[str, Any]:
    found = dict(message)
    role = found.get("role")
    meant = meant_role(role)
    if meant and meant != role:
        found["role"] = meant
        changes.append(f"wrote role {role!r} as {meant!r}")
    if isinstance(found.get("weight"), bool):
        found["weight"] = int(found["weight"])
        changes.append("wrote weight as a number")
    content = found.get("content")
    if isinstance(content, list) and content and all(_is_text(part) for part in content):
        found["content"] = "".join(part["text"] for part in content)
        changes.append("joined the parts of a content")
    call = found.get("function_call")
    if isinstance(call, dict) and not found.get("tool_calls"):
        del found["function_call"]
        found["tool_calls"] = [{"type": "function", "function": call}]
        changes.append("wrote function_call as tool_calls")
    if isinstance(found.get("tool_calls"), list):
        found["tool_calls"] = [_call(call, changes) for call in found["tool_calls"]]
    return found


def _call(call: Any, changes: list[str]) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    given = function.get("arguments") if isinstance(function, dict) else None
    if not isinstance(given, str):
        return call
    arguments = given
    if not given.strip():
        arguments = "{}"
        changes.append("wrote {} for a call's empty arguments")
    else:
        try:
            conversation.loads(given)
        except RowError as error:
            if error.code == "duplicate_key":
                arguments = json.dumps(json.loads(given), ensure_ascii=False)
                changes.append("kept the last of keys that were there twice in a call's arguments")
    return call if arguments == given else {**call, "function": {**call["function"], "arguments": arguments}}


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type", "text") == "text" and isinstance(part.get("text"), str)


def _is_unanswered(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") in ("user", "system", "tool")
