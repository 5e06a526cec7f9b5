"""Llama 4's chat format: one definition, from which training masks and the server's prompts are both made.

The format is Meta's (llama-models, models/llama4/prompt_format.md and chat_format.py):
`<|begin_of_text|><|header_start|>role<|header_end|>\\n\\ncontent<|eot|>`, with tool results under the role
`ipython`. Unlike ChatFormat it strips white space around content
(tests/training/test_chat_meta.py lists every difference).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from heartbeat.conversation import ChatError
from heartbeat.tool_calls import why_unreadable, write_calls

BEGIN_OF_TEXT = "<|begin_of_text|>"
HEADER_START = "<|header_start|>"
HEADER_END = "<|header_end|>"
END_OF_TURN = "<|eot|>"
PYTHON_START = "<|python_start|>"
PYTHON_END = "<|python_end|>"
SPECIAL_TOKENS = (BEGIN_OF_TEXT, HEADER_START, HEADER_END, END_OF_TURN, PYTHON_START, PYTHON_END)

TOOLS_HEADING = (
    "You can call these functions. To call some, answer with a list of calls and nothing else, "
    "[name(argument=value), other_name(argument=value)]:"
)

_ROLES = {
    "system": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "ipython",
    "ipython": "ipython",
}


class Piece(NamedTuple):
    """A stretch of the rendered conversation that is tokenized by itself. A tuple: millions are made in a check."""

    text: str
    special: bool = False
    """One of SPECIAL_TOKENS. The same characters in a message are ordinary text, never a control token."""
    supervised: bool = False
    """Whether the model is trained to say it."""


class Turn(NamedTuple):
    """A message as it is written: between the header of its role and <|eot|>."""

    role: str
    body: Sequence[Piece]
    supervised: bool = False
    """Whether the model is trained to end it."""


def render(
    messages: Sequence[Any], tools: Sequence[Any] | None = None, *, generation_prompt: bool = False
) -> list[Piece]:
    """The conversation in order. Supervised: what the assistant says, its <|eot|> included, but not its header.

    An assistant message with `"weight": 0` is shown to the model and not trained on. With `generation_prompt` the
    result ends with the header of an assistant turn. Raises ChatError that names the message.
    """
    pieces = [Piece(BEGIN_OF_TEXT, special=True)]
    for turn in turns(messages, tools):
        pieces += header(turn.role)
        pieces += turn.body
        pieces.append(Piece(END_OF_TURN, special=True, supervised=turn.supervised))
    if generation_prompt:
        pieces += header("assistant")
    return pieces


def turns(messages: Sequence[Any], tools: Sequence[Any] | None = None) -> Iterator[Turn]:
    """What `render` writes, turn by turn; `header` gives what is before each. Raises ChatError."""
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise ChatError("`messages` must be a list of at least one message")
    rest = list(messages)
    if tools:
        # Tools are described at the end of the system message; a conversation without one gets one.
        first = rest.pop(0) if _role(rest[0], 1) == "system" else {"role": "system", "content": ""}
        content = f"{_content(first, 1)}\n\n{_tools_text(tools)}".strip()
        yield Turn("system", [Piece(content)])
    start = len(messages) - len(rest)
    for number, message in enumerate(rest, start=start + 1):
        yield _turn(message, number)


CALLS_WITH_TEXT = (
    "the turn has content and tool_calls, and the served parser reads a turn as calls only when it holds nothing else; "
    "drop the text"
)


def why_unservable(messages: Sequence[Mapping[str, Any]]) -> str | None:
    """What keeps vLLM's `llama4_pythonic` parser from reading a trained turn's tool calls; None where nothing does."""
    for number, message in enumerate(messages, start=1):
        calls = message.get("tool_calls")
        if message.get("role") != "assistant" or not calls or message.get("weight") == 0:
            continue
        problem = CALLS_WITH_TEXT if _content(message, number) else why_unreadable(calls)
        if problem:
            return f"message {number}: {problem}"
    return None


def text_of(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def _turn(message: Any, number: int) -> Turn:
    role = _role(message, number)
    if role != "assistant":
        return Turn(role, [Piece(_content(message, number))])
    weight = message.get("weight")
    if weight not in (None, 0, 1):
        raise ChatError(f"message {number}: weight={weight!r} must be 0 or 1")
    return Turn(role, _answer(message, number, supervised=weight != 0), supervised=weight != 0)


def _answer(message: Mapping[str, Any], number: int, *, supervised: bool) -> list[Piece]:
    content, calls = _content(message, number), message.get("tool_calls")
    if not content and not calls:
        raise ChatError(f"message {number}: an assistant message needs content or tool_calls")
    if calls and (not isinstance(calls, Sequence) or isinstance(calls, str)):
        raise ChatError(f"message {number}: tool_calls must be a list")
    body = [Piece(content, supervised=supervised)] if content else []
    if calls:
        body += [
            Piece(PYTHON_START, special=True, supervised=supervised),
            Piece(_calls_text(calls, number), supervised=supervised),
            Piece(PYTHON_END, special=True, supervised=supervised),
        ]
    return body


def _calls_text(calls: Sequence[Any], number: int) -> str:
    try:
        return write_calls(calls)
    except ChatError as error:
        raise ChatError(f"message {number}: {error}") from None


@functools.cache
def header(role: str) -> tuple[Piece, ...]:
    """What stands before a turn of this role of Llama 4; a tool's is "ipython"."""
    # The blank line is a piece of its own, as in Meta's encoder: a prompt ends with it and an answer begins after.
    return Piece(HEADER_START, special=True), Piece(role), Piece(HEADER_END, special=True), Piece("\n\n")


def _role(message: Any, number: int) -> str:
    if not isinstance(message, Mapping):
        raise ChatError(f"message {number} must be an object with role and content")
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise ChatError(f"message {number}: role {role!r} must be one of system, user, assistant, tool")
    return _ROLES[role]


def _content(message: Mapping[str, Any], number: int) -> str:
    content = message.get("content")
    if content is None:
        return ""
    if isinstance(content, str):
        return content.strip()
    parts = content if isinstance(content, list) else [content]
    if not all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in parts):
        raise ChatError(f"message {number}: content must be text or a list of text parts; images are not supported")
    return "".join(part["text"] for part in parts).strip()


def _tools_text(tools: Sequence[Any]) -> str:
    if not isinstance(tools, Sequence) or isinstance(tools, str):
        raise ChatError("`tools` must be a list of function definitions")
    return "\n".join([TOOLS_HEADING, *(_tool(tool) for tool in tools)])


def _tool(tool: Any) -> str:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ChatError('a tool must have the form {"type": "function", "function": {"name": …, "parameters": …}}')
    # Three fields in a fixed order: servers add others (null `strict`) and training must see what serving sees.
    shown = {key: function.get(key) or None for key in ("name", "description", "parameters")}
    return json.dumps(shown, ensure_ascii=False)
