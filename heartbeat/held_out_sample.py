"""A few of the turns that the gate was decided on, for the acceptance check to ask of the endpoint.

The trainer keeps them, since it alone has the split. They lie beside the checkpoints and expire with them: what users
said is not copied to a place where it stays. One turn a row: turns of one row are right or wrong together, and the
acceptance check counts them as independent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from heartbeat import cases, conversation
from heartbeat.cases import Case, Message, Row, Tools
from heartbeat.tool_call_parser import ToolCall

FILE = "held-out-sample.json"
"""In the checkpoint folder."""
MOST_TURNS = 24
"""Each is one call of the endpoint: a minute or two of a large model, and enough to see what is broken."""


def keep(rows: Sequence[Row], tools: Tools, *, max_new_tokens: int, count: Callable[[Case], int]) -> dict[str, Any]:
    """What FILE holds, of the held-out rows that were asked; `count` gives a prompt's length in tokens.

    Which rows, and which turn of each, is decided by what they say: the same in every order of the file.
    """
    of_row: dict[int, list[Case]] = {}
    for case in cases.cases(cases.chosen(rows, MOST_TURNS), tools):
        of_row.setdefault(case.conversation, []).append(case)
    turns = [own[int(own[0].row, 16) % len(own)] for own in of_row.values()]
    return {
        "max_new_tokens": max_new_tokens,
        "tools": dict(tools),
        "turns": [{"prompt_tokens": count(case), **_to_dict(case)} for case in turns],
    }


def read(kept: Mapping[str, Any], *, max_model_len: int) -> list[Case]:
    """The turns of `keep` that an endpoint of `max_model_len` tokens can answer at full length."""
    fitting = [turn for turn in kept["turns"] if turn["prompt_tokens"] + kept["max_new_tokens"] <= max_model_len]
    return [_from_dict(turn, number, kept["tools"]) for number, turn in enumerate(fitting)]


def _to_dict(case: Case) -> dict[str, Any]:
    return {
        "row": case.row,
        "turn": case.turn,
        "prompt": [_sent(message) for message in case.prompt],
        "declared": list(case.declared),
        "expected": _sent(case.expected),
        "accepted": [[[call.name, call.arguments] for call in calls] for calls in case.accepted],
    }


def _from_dict(turn: Mapping[str, Any], number: int, tools: Tools) -> Case:
    declared = turn["declared"]
    return Case(
        conversation=number,
        row=turn["row"],
        turn=turn["turn"],
        prompt=turn["prompt"],
        declared=declared,
        tools=cases.known_tools([{"messages": (), "tools": declared}]) if declared else tools,
        expected=turn["expected"],
        accepted=tuple(tuple(ToolCall(name, given) for name, given in calls) for calls in turn["accepted"]),
    )


def _sent(message: Message) -> dict[str, Any]:
    """A row's message as OpenAI's API takes it: nothing of the row's own, ids, and arguments as JSON text."""
    found = {"role": message["role"], "content": message.get("content")}
    if message["role"] == "tool" and message.get("tool_call_id"):
        found["tool_call_id"] = message["tool_call_id"]
    calls = [
        {
            "id": call.get("id") or f"call-{number}",
            "type": "function",
            "function": {
                "name": call["function"]["name"],
                "arguments": conversation.PLAIN.encode(conversation.arguments(call)),
            },
        }
        for number, call in enumerate(conversation.tool_calls(message), start=1)
    ]
    return {**found, "tool_calls": calls} if calls else found
