"""Questions to an endpoint through the public InvokeEndpoint API."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

from heartbeat import requests
from heartbeat.cli.account import client
from heartbeat.cli.errors import Failed, UserError

Message = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An endpoint, and how it is asked."""

    name: str
    tools: Sequence[Message] = field(default_factory=tuple)
    max_tokens: int = 256
    temperature: float = 0.0

    def ask(self, messages: Sequence[Message], model: str) -> Message:
        """The assistant's next message, by the tuned model or the base. Raises UserError or Failed."""
        body = requests.chat(model=model, messages=messages, max_tokens=self.max_tokens, temperature=self.temperature)
        if self.tools:
            body["tools"] = list(self.tools)
        try:
            answer = client("sagemaker-runtime").invoke_endpoint(
                EndpointName=self.name, ContentType="application/json", Body=json.dumps(body)
            )
        except ClientError as error:
            raise _explained(self.name, error) from None
        raw = answer["Body"].read()
        try:
            message: Message = json.loads(raw)["choices"][0]["message"]
        except (ValueError, LookupError, TypeError):
            raise Failed(f"endpoint {self.name} gave no chat completion: {raw[:200]!r}") from None
        return message


def _explained(name: str, error: ClientError) -> UserError | Failed | ClientError:
    code, text = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
    if code == "ValidationError" and "not found" in text:
        return UserError(f"there is no endpoint {name}; `python -m heartbeat status` lists those that there are")
    if code == "ModelError":
        said = error.response.get("OriginalMessage") or text
        return Failed(f"endpoint {name} could not answer: {said}")
    return error


def shown(message: Message) -> str:
    """What a message says, its tool calls as they would be written: `parquet_query(player="Nick Suzuki")`."""
    calls = message.get("tool_calls") or []
    if calls:
        return "; ".join(_call(call["function"]) for call in calls)
    return str(message.get("content") or "").strip() or "(nothing)"


def _call(function: Message) -> str:
    try:
        arguments = json.loads(function["arguments"])
    except ValueError:
        return f"{function['name']}({function['arguments']})"
    given = ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in arguments.items())
    return f"{function['name']}({given})"
