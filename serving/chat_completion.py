"""OpenAI's chat completion, request and response: what vLLM's /invocations takes and gives."""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any

from heartbeat.chat import PYTHON_END, PYTHON_START
from heartbeat.tool_call_parser import ToolCall, parse_calls
from serving.generate import TOP_LOGPROBS_LIMIT, Answer, FinishReason, Said, Token

DEFAULT_MAX_TOKENS = 256


class RequestError(ValueError):
    """A body that cannot be answered: HTTP 400, with the message as it is."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A checked request body. Conversations are checked when they are rendered."""

    model: str
    messages: list[Any]
    tools: list[Any] | None
    max_tokens: int
    temperature: float
    seed: int | None
    logprobs: bool
    num_top_logprobs: int
    stream: bool
    stream_usage: bool
    """Whether a stream ends with the number of tokens."""

    @classmethod
    def from_body(cls, body: bytes, models: Mapping[str, object]) -> Request:
        """Raises RequestError. Fields that this server has no use for are ignored, as vLLM does."""
        try:
            fields = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"the body is not JSON: {error}") from None
        if not isinstance(fields, dict):
            raise RequestError("the body must be a JSON object")
        model = fields.get("model", next(iter(models)))
        if model not in models:
            raise RequestError(f"model {model!r} is not served; the models are {', '.join(models)}")
        if not isinstance(fields.get("stream_options") or {}, dict):
            raise RequestError("stream_options must be an object")
        if fields.get("n", 1) != 1:
            raise RequestError("n must be 1")
        tools = fields.get("tools") or None
        if tools is not None and not isinstance(tools, list):
            raise RequestError("tools must be a list")
        if not isinstance(fields.get("messages"), list):
            raise RequestError("messages must be a list")
        limit = "max_completion_tokens" if fields.get("max_completion_tokens") is not None else "max_tokens"
        return cls(
            model=model,
            messages=fields["messages"],
            tools=None if fields.get("tool_choice") == "none" else tools,
            max_tokens=_whole(fields, limit, DEFAULT_MAX_TOKENS, at_least=1),
            temperature=_temperature(fields.get("temperature")),
            seed=_whole(fields, "seed", 0, at_least=0) if fields.get("seed") is not None else None,
            logprobs=fields.get("logprobs") is True,
            num_top_logprobs=_whole(fields, "top_logprobs", 0, at_least=0, at_most=TOP_LOGPROBS_LIMIT),
            stream=fields.get("stream") is True,
            stream_usage=(fields.get("stream_options") or {}).get("include_usage") is True,
        )


def response(
    request: Request, answer: Answer, *, num_prompt_tokens: int, decode: Callable[[list[int]], str]
) -> dict[str, Any]:
    """The chat.completion of an answer, tool calls parsed where the request offered tools."""
    ids = [token.id for token in answer.tokens]
    text = decode(ids)
    calls = parse_calls(text) if request.tools else None
    message: dict[str, Any] = {"role": "assistant", "content": None if calls else _plain(text)}
    if calls:
        message["tool_calls"] = [_tool_call(call) for call in calls]
    choice = {
        "index": 0,
        "message": message,
        "logprobs": _logprobs(answer, decode) if request.logprobs else None,
        "finish_reason": "tool_calls" if calls else answer.finish_reason,
    }
    # The end-of-turn token was generated too, though nobody sees it.
    num_completion_tokens = len(ids) + (answer.finish_reason == "stop")
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": request.model,
        "choices": [choice],
        "usage": {
            "prompt_tokens": num_prompt_tokens,
            "completion_tokens": num_completion_tokens,
            "total_tokens": num_prompt_tokens + num_completion_tokens,
        },
    }


def chunks(
    request: Request, said: Said, *, num_prompt_tokens: int, decode: Callable[[list[int]], str]
) -> Generator[dict[str, Any], None, None]:
    """The chat.completion.chunk objects of an answer: text as it comes, tool calls each as a whole.

    What may yet become a list of calls is held back until it has, or has not.
    """
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": "chat.completion.chunk", "created": int(time.time())}
    shared = {**head, "model": request.model}

    def chunk(delta: Mapping[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        return {**shared, "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}

    yield chunk({"role": "assistant", "content": ""})
    tokens: list[Token] = []
    sent = ""
    reason: FinishReason = "length"
    try:
        while True:
            tokens.append(next(said))
            text = decode([token.id for token in tokens])
            # A character may be several tokens: half of one is the replacement character.
            if not text.endswith("\ufffd") and not (request.tools and text.startswith(("[", PYTHON_START))):
                shown = _plain(text)
                if shown[len(sent) :]:
                    yield chunk({"content": shown[len(sent) :]})
                sent = shown
    except StopIteration as end:
        reason = end.value
    finally:
        said.close()
    whole = response(request, Answer(tokens, reason), num_prompt_tokens=num_prompt_tokens, decode=decode)
    choice = whole["choices"][0]
    if calls := choice["message"].get("tool_calls"):
        for index, call in enumerate(calls):
            yield chunk({"tool_calls": [{"index": index, **call}]})
    elif rest := choice["message"]["content"][len(sent) :]:
        yield chunk({"content": rest})
    yield chunk({}, choice["finish_reason"])
    if request.stream_usage:
        yield {**shared, "choices": [], "usage": whole["usage"]}


def error_body(message: str, kind: str, code: int) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def _plain(text: str) -> str:
    return text.replace(PYTHON_START, "").replace(PYTHON_END, "").strip()


def _tool_call(call: ToolCall) -> dict[str, Any]:
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    function = {"name": call.name, "arguments": arguments}
    return {"id": f"chatcmpl-tool-{uuid.uuid4().hex}", "type": "function", "function": function}


def _logprobs(answer: Answer, decode: Callable[[list[int]], str]) -> dict[str, Any]:
    def entry(token_id: int, logprob: float) -> dict[str, Any]:
        text = decode([token_id])
        return {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8", errors="replace"))}

    def with_top(token: Token) -> dict[str, Any]:
        return {
            **entry(token.id, token.logprob),
            "top_logprobs": [entry(token_id, logprob) for token_id, logprob in token.top],
        }

    return {"content": [with_top(token) for token in answer.tokens]}


def _whole(fields: Mapping[str, Any], name: str, default: int, *, at_least: int, at_most: float = math.inf) -> int:
    value = fields.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not at_least <= value <= at_most:
        upper = f" and at most {at_most:.0f}" if math.isfinite(at_most) else ""
        raise RequestError(f"{name}={value!r} must be a whole number of at least {at_least}{upper}")
    return value


def _temperature(value: Any) -> float:
    if value is None:
        return 1.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 2:
        raise RequestError(f"temperature={value!r} must be a number from 0 to 2")
    return float(value)
