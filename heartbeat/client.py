"""Ask an endpoint from Python, with the AWS credentials of the process.

from heartbeat.client import ask, stream

question = [{"role": "user", "content": "Who leads the Canadiens in points?"}]
print(ask("heartbeat-dev", question)["content"])
for text in stream("heartbeat-dev", question, model="base"):
    print(text, end="", flush=True)
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from heartbeat import requests

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

Message = dict[str, Any]


class EndpointError(Exception):
    """The endpoint gave no answer; the text says why."""


class NoEndpoint(EndpointError):  # noqa: N818 (the endpoint is not there)
    """There is no endpoint of this name in the account and Region."""


class Asleep(EndpointError):  # noqa: N818 (nothing is wrong with it)
    """The endpoint has scaled to zero. The call that says so wakes it: ask again until it answers."""


def ask(
    endpoint: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    model: str = requests.TUNED_NAME,
    tools: Sequence[Mapping[str, Any]] = (),
    max_tokens: int = 256,
    temperature: float = 0.0,
    runtime: Any = None,
) -> Message:
    """The assistant's next message in OpenAI's form: `content`, or `tool_calls` with their arguments as JSON.

    `model` is an adapter's name or `base`, `max_tokens` the longest answer, `runtime` a boto3 client of
    `sagemaker-runtime` to use in place of a new one. Raises EndpointError (Asleep where the endpoint has scaled to zero
    and this call wakes it), and what boto3 raises for credentials, permissions and the network.
    """
    body = requests.chat(model=model, messages=messages, tools=tools, max_tokens=max_tokens, temperature=temperature)
    raw = _invoke(runtime, "invoke_endpoint", endpoint, body)["Body"].read()
    try:
        message: Message = json.loads(raw)["choices"][0]["message"]
    except (ValueError, LookupError, TypeError):
        raise EndpointError(f"endpoint {endpoint} gave no chat completion: {raw[:200]!r}") from None
    return message


def stream(
    endpoint: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    model: str = requests.TUNED_NAME,
    tools: Sequence[Mapping[str, Any]] = (),
    max_tokens: int = 256,
    temperature: float = 0.0,
    runtime: Any = None,
) -> Stream:
    """The same, word by word: yields text as it comes. `message` of what is returned is whole after the last of it.

    Raises what `ask` raises, also in the midst of an answer.
    """
    body = requests.chat(model=model, messages=messages, tools=tools, max_tokens=max_tokens, temperature=temperature)
    answer = _invoke(runtime, "invoke_endpoint_with_response_stream", endpoint, {**body, "stream": True})
    return Stream(endpoint, answer["Body"])


class Stream:
    """An answer that is still being said: iterate over it once."""

    def __init__(self, endpoint: str, events: Iterable[Mapping[str, Any]]) -> None:
        self._endpoint, self._events = endpoint, events
        self._content: list[str] = []
        self._calls: dict[int, Message] = {}

    @property
    def message(self) -> Message:
        """The assistant's message as far as it has come, as `ask` returns it."""
        content = "".join(self._content)
        if not self._calls:
            return {"role": "assistant", "content": content}
        calls = [self._calls[index] for index in sorted(self._calls)]
        return {"role": "assistant", "content": content or None, "tool_calls": calls}

    def __iter__(self) -> Iterator[str]:
        from botocore.exceptions import ClientError

        try:
            for data in _data(self._events):
                yield from self._take(data)
        except ClientError as error:  # an event of its own tells that the container failed
            raise _explained(self._endpoint, error) from None

    def _take(self, data: bytes) -> Iterator[str]:
        try:
            chunk = json.loads(data)
            if "error" in chunk:
                raise EndpointError(f"endpoint {self._endpoint} could not go on: {chunk['error'].get('message')}")
            for choice in chunk["choices"][:1]:
                delta = choice["delta"]
                for call in delta.get("tool_calls") or ():
                    self._add(call)
                if text := delta.get("content"):
                    self._content.append(text)
                    yield text
        except (ValueError, LookupError, TypeError, AttributeError):
            raise EndpointError(f"endpoint {self._endpoint} gave no chat completion: {data[:200]!r}") from None

    def _add(self, part: Mapping[str, Any]) -> None:
        """The first part of a call has its name; arguments come in pieces."""
        whole = self._calls.setdefault(
            part["index"], {"id": None, "type": "function", "function": {"name": "", "arguments": ""}}
        )
        whole["id"] = part.get("id") or whole["id"]
        function = part.get("function") or {}
        whole["function"]["name"] = function.get("name") or whole["function"]["name"]
        whole["function"]["arguments"] += function.get("arguments") or ""


def _data(events: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    """Payloads of the server-sent events; SageMaker cuts the stream into parts anywhere."""
    rest = b""
    for event in events:
        *lines, rest = (rest + event["PayloadPart"]["Bytes"]).split(b"\n")
        yield from _payloads(lines)
    yield from _payloads([rest])


def _payloads(lines: Iterable[bytes]) -> Iterator[bytes]:
    for line in lines:
        name, _, value = line.partition(b":")
        if name == b"data" and value.strip() != b"[DONE]":
            yield value.strip()
        elif line.lstrip().startswith(b"{"):  # not a stream, but one answer, or an error
            yield line


def _invoke(runtime: Any, operation: str, endpoint: str, body: Mapping[str, Any]) -> Any:
    # Imported here: the domain runs without it, and `--help` comes at once.
    import boto3
    from botocore.exceptions import ClientError

    call = getattr(runtime or boto3.client("sagemaker-runtime"), operation)
    asked = {"EndpointName": endpoint, "ContentType": "application/json", "Body": json.dumps(body)}
    component = {"InferenceComponentName": endpoint}  # the only one, of its name: requests.create_component
    try:
        try:
            return call(**asked, **(component if endpoint in _OF_COMPONENTS else {}))
        except ClientError as error:
            if not _is_of_the_other_kind(error):
                raise
        # Whether it can scale to zero only the endpoint itself can say to a caller who may do no more than ask.
        _OF_COMPONENTS.symmetric_difference_update({endpoint})
        return call(**asked, **(component if endpoint in _OF_COMPONENTS else {}))
    except ClientError as error:
        raise _explained(endpoint, error) from None


_OF_COMPONENTS: set[str] = set()
"""Endpoints that were found to host a component, so that they are asked rightly at once the next time."""


def _is_of_the_other_kind(error: ClientError) -> bool:
    """Whether a component was named and there are none, or the reverse: SageMaker has no code of its own for it."""
    return "inference component name header is" in error.response["Error"].get("Message", "").lower()


def _explained(endpoint: str, error: ClientError) -> EndpointError | ClientError:
    code, text = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
    if code == "ValidationError" and "not found" in text:
        return NoEndpoint(f"there is no endpoint {endpoint}")
    if code == "ValidationError" and "no capacity" in text:
        return Asleep(
            f"endpoint {endpoint} is asleep or waking: ask again, it answers some minutes after the first call"
        )
    if code in {"ModelError", "ModelStreamError", "InternalStreamFailure"}:
        return EndpointError(f"endpoint {endpoint} could not answer: {error.response.get('OriginalMessage') or text}")
    return error
