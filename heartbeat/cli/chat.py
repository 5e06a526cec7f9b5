"""`chat`: talk to an endpoint, one question or many."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.text import Text

from heartbeat import requests
from heartbeat.cli import screen, source
from heartbeat.cli.account import connect
from heartbeat.cli.endpoint import Endpoint, shown
from heartbeat.cli.errors import UserError
from heartbeat.client import Message

EXAMPLE = Path(__file__).resolve().parent.parent.parent / "examples" / "stanley" / "stanley.jsonl"
_HELP = "/as NAME: who answers, base or an adapter   /tool JSON: a tool's result   /new: start afresh   /quit"


def run(arguments: argparse.Namespace) -> int:
    system, tools = example_prompt()
    endpoint = Endpoint(
        name=arguments.endpoint or connect(arguments.environment).endpoint_name,
        tools=_tools(arguments.tools) if arguments.tools else tools,
        max_tokens=arguments.max_tokens,
        temperature=arguments.temperature,
    )
    if arguments.system is not None:
        system = _text(arguments.system)
    opening: list[Message] = [{"role": "system", "content": system}] if system else []
    models = [requests.TUNED_NAME, requests.BASE_NAME] if arguments.model == "both" else [arguments.model]
    if arguments.once is not None:
        for model in models:
            message = endpoint.ask([*opening, {"role": "user", "content": arguments.once}], model)
            screen.say(f"{model:<8} {shown(message)}" if len(models) > 1 else shown(message))
        return 0
    if len(models) > 1:
        raise UserError("--model both needs --once: a conversation has one partner")
    return _talk(endpoint, opening, models[0])


def example_prompt() -> tuple[str, list[Message]]:
    """System message and tools of the example dataset, under which its adapter was trained; empty without it."""
    if not EXAMPLE.is_file():
        return "", []
    with EXAMPLE.open("rb") as lines:
        for line in lines:
            row = json.loads(line)
            if row.get("tools") and row["messages"][0]["role"] == "system":
                return str(row["messages"][0]["content"]), list(row["tools"])
    return "", []


def _talk(endpoint: Endpoint, opening: list[Message], model: str) -> int:
    """A conversation, until the end of the input."""
    interactive = sys.stdin.isatty()
    if interactive:
        screen.say(Text(f"{endpoint.name}   {_HELP}", style="dim"))
    messages = list(opening)
    while (line := _read(interactive)) is not None:
        if line in {"/quit", "/exit"}:
            break
        if line == "/new":
            messages = list(opening)
        elif line.startswith("/as "):
            model = line.removeprefix("/as ").strip()
        elif line.startswith("/") and not line.startswith("/tool "):
            screen.say(Text(_HELP, style="dim"))
        elif line:
            said, voice = _said(line, messages), _Voice(model)
            answer = endpoint.say([*messages, said], model, voice.say)
            messages += [said, {key: answer[key] for key in ("role", "content", "tool_calls") if answer.get(key)}]
            if not answer.get("content"):
                voice.say(shown(answer))
            screen.say()
    return 0


class _Voice:
    """An answer on the screen, piece by piece; who gives it is said before the first, which may be long in coming."""

    def __init__(self, model: str) -> None:
        self._before = Text(f"{model} ", style="bold cyan")

    def say(self, text: str) -> None:
        screen.console().print(self._before, Text(text), sep="", end="", soft_wrap=True)
        self._before = Text()


def _said(line: str, messages: list[Message]) -> Message:
    """The user's line as a message: a question, or the result of the tool that was just called."""
    if not line.startswith("/tool "):
        return {"role": "user", "content": line}
    calls = (messages[-1].get("tool_calls") if messages else None) or [{"id": "call_0"}]
    return {"role": "tool", "tool_call_id": calls[0]["id"], "content": line.removeprefix("/tool ")}


def _read(interactive: bool) -> str | None:
    try:
        return input("you > " if interactive else "").strip()
    except EOFError:
        return None


def _text(given: str) -> str:
    return source.file(given[1:]).read_text(encoding="utf-8").strip() if given.startswith("@") else given


def _tools(path: Path) -> list[Any]:
    try:
        found = json.loads(source.file(str(path)).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"--tools {path} is not JSON: {error}") from None
    if not isinstance(found, list):
        raise UserError(f'--tools {path} must hold a list: [{{"type": "function", "function": {{…}}}}]')
    return found
