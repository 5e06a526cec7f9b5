"""Questions to an endpoint from the command line."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from heartbeat import client, requests
from heartbeat.cli import account, screen
from heartbeat.cli.errors import Failed, UserError
from heartbeat.client import Message

WAKING_SECONDS = 2 * requests.START_LIMIT_SECONDS
"""The longest that the download and the start of an endpoint's container may take."""

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An endpoint, and how it is asked."""

    name: str
    tools: Sequence[Message] = field(default_factory=tuple)
    max_tokens: int = 256
    temperature: float = 0.0

    def ask(self, messages: Sequence[Message], model: str) -> Message:
        """The assistant's next message, by an adapter or the base; waits for an endpoint that is asleep.

        Raises UserError or Failed.
        """
        with _in_words():
            return self._awake(lambda: client.ask(self.name, messages, model=model, **self._how()))

    def say(self, messages: Sequence[Message], model: str, show: Callable[[str], None]) -> Message:
        """The same; `show` gets its text piece by piece, as it comes."""
        with _in_words():
            said = self._awake(lambda: client.stream(self.name, messages, model=model, **self._how()))
            for text in said:
                show(text)
            return said.message

    def _awake(self, call: Callable[[], _Answer]) -> _Answer:
        """What the call returns, made again until the endpoint that it wakes can answer. Raises EndpointError."""
        with contextlib.suppress(client.Asleep):
            return call()
        # Beside the answer, which a script reads from standard output.
        with screen.phase(f"waking {self.name}", screen.errors()) as phase:
            phase.detail = "it was asleep; `python -m heartbeat plan` says how long waking takes"
            while True:
                time.sleep(account.pause_seconds())
                try:
                    return call()
                except client.Asleep:
                    if phase.seconds > WAKING_SECONDS:
                        raise

    def _how(self) -> dict[str, Any]:
        return {
            "tools": self.tools,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "runtime": account.client("sagemaker-runtime"),
        }


@contextmanager
def _in_words() -> Iterator[None]:
    try:
        yield
    except client.NoEndpoint as error:
        raise UserError(f"{error}; `python -m heartbeat status` lists those that there are") from None
    except client.EndpointError as error:
        raise Failed(str(error)) from None


def shown(message: Message) -> str:
    """What a message says, its tool calls as they would be written: `parquet_query(player="Nick Suzuki")`.

    Arguments may be an object, as a dataset may have them, or JSON text.
    """
    calls = message.get("tool_calls") or []
    if calls:
        return "; ".join(_call(call["function"]) for call in calls)
    return str(message.get("content") or "").strip() or "(nothing)"


def _call(function: Message) -> str:
    arguments = function["arguments"]
    if isinstance(arguments, str):
        with contextlib.suppress(ValueError):
            arguments = json.loads(arguments)
    if not isinstance(arguments, Mapping):  # a model may say anything
        return f"{function['name']}({arguments})"
    given = ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in arguments.items())
    return f"{function['name']}({given})"
