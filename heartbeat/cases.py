"""What a model is asked in the proof of quality: one case for each assistant turn that a held-out row would train.

Every case is asked after the row's own earlier turns, not after what the model said to them: then base and tuned
answer the same questions, and one slip counts once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heartbeat import chat, conversation
from heartbeat.tool_call_parser import ToolCall

Row = Mapping[str, Any]
Message = Mapping[str, Any]
Tools = Mapping[str, Mapping[str, Any] | None]
"""Tools that exist: name -> JSON schema of the arguments, or None where nobody declares one."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One assistant turn of a held-out row: what comes before it and what is expected."""

    conversation: int
    """Which of the held-out rows, counted from 0. Turns of one row are not independent: they share this number."""
    row: str
    """As `name_of` names it."""
    turn: int
    """Index of the expected message in the row's `messages`."""
    prompt: Sequence[Message]
    declared: Sequence[Mapping[str, Any]]
    """The row's own `tools`, which the prompt describes; empty where it has none."""
    tools: Tools
    expected: Message
    accepted: tuple[tuple[ToolCall, ...], ...]
    """Lists of calls that are right, any of them. The turn's own first; empty for a turn that answers.

    Where the row calls one tool after the other for one question, calling all of them at once is right as well:
    a dataset may hold both manners, and the question does not tell which. The other way round is not: one call
    where the row makes two could be the only one.
    """

    @property
    def is_answer(self) -> bool:
        """Whether the row answers here, rather than calling tools."""
        return not self.accepted

    @property
    def follows_results(self) -> bool:
        return bool(self.prompt) and self.prompt[-1]["role"] == "tool"


def known_tools(rows: Sequence[Row]) -> Tools:
    """The tools of a dataset of sound rows: what any row declares or calls.

    A row may leave `tools` out and name them in its system prompt, as three of four Stanley rows do. Where two rows
    declare one tool differently, its schema is None: it binds only the rows that declare it.
    """
    found: dict[str, Mapping[str, Any] | None] = {}
    for row in rows:
        for name, schema in _declared(row).items():
            found[name] = schema if found.get(name, schema) == schema else None
    for row in rows:
        for message in row["messages"]:
            for call in conversation.tool_calls(message):
                found.setdefault(call["function"]["name"], None)
    return found


def cases(rows: Sequence[Row], tools: Tools | None = None) -> list[Case]:
    """The cases of sound held-out rows, in order. `tools` are those of the whole dataset; else of these rows."""
    tools = known_tools(rows) if tools is None else tools
    return [case for number, row in enumerate(rows) for case in _cases(row, number, tools)]


def route(row: Row) -> list[str]:
    """Names of the tools that a sound row calls."""
    return sorted({call["function"]["name"] for m in row["messages"] for call in conversation.tool_calls(m)})


def chosen(rows: Sequence[Row], most: int) -> list[Row]:
    """At most `most` of these sound rows, in order: of each route (the tools that a row calls) its share.

    A systematic sample of the rows sorted by route, and within a route by what they say: the same rows whatever their
    order in the file. A route that has one row in `most` of them is there.
    """
    order = sorted(range(len(rows)), key=lambda i: (route(rows[i]), conversation.fingerprint(rows[i])))
    count = min(most, len(rows))
    return [rows[i] for i in sorted(order[len(rows) * (2 * k + 1) // (2 * count)] for k in range(count))]


def expected_text(case: Case) -> str:
    """What the expected turn says, as a model trained on it would write it."""
    pieces = chat.render([*case.prompt, case.expected], case.declared or None)
    before = len(chat.render(case.prompt, case.declared or None, generation_prompt=True))
    return chat.text_of(pieces[before:]).removesuffix(chat.END_OF_TURN)


def name_of(row: Row) -> str:
    """Beginning of a sound row's fingerprint, which names it wherever it stands in its file."""
    return conversation.fingerprint(row).hex()[:12]


def _cases(row: Row, number: int, tools: Tools) -> Iterator[Case]:
    messages = row["messages"]
    own = _declared(row)
    name = name_of(row)
    for turn, message in enumerate(messages):
        if turn and conversation.is_supervised(message):
            yield Case(
                conversation=number,
                row=name,
                turn=turn,
                prompt=messages[:turn],
                declared=row.get("tools") or (),
                # What a row declares is all that exists in it: the prompt says so to the model.
                tools=own or tools,
                expected=message,
                accepted=_accepted(messages, turn),
            )


def _accepted(messages: Sequence[Message], turn: int) -> tuple[tuple[ToolCall, ...], ...]:
    here = _calls(messages[turn])
    if not here:
        return ()
    rest = list(here)
    for message in messages[turn + 1 :]:
        if message["role"] == "user":
            break
        rest += _calls(message)
    return (here,) if len(rest) == len(here) else (here, tuple(rest))


def _calls(message: Message) -> tuple[ToolCall, ...]:
    return tuple(
        ToolCall(call["function"]["name"], conversation.arguments(call)) for call in conversation.tool_calls(message)
    )


def _declared(row: Row) -> dict[str, Mapping[str, Any] | None]:
    return {tool["function"]["name"]: tool["function"].get("parameters") for tool in row.get("tools") or ()}
