"""The Python client: streams cut anywhere, tool calls in pieces, and failures in words."""

from __future__ import annotations

import io
import itertools
import json
from typing import Any

import pytest
from botocore.exceptions import ClientError, EventStreamError
from hypothesis import given
from hypothesis import strategies as st

from heartbeat.client import Asleep, EndpointError, NoEndpoint, Stream, ask, stream

QUESTION = [{"role": "user", "content": "Who leads?"}]


def chunk(**delta: Any) -> str:
    return f"data: {json.dumps({'choices': [{'index': 0, 'delta': delta}]}, ensure_ascii=False)}\n\n"


def call(index: int, arguments: str, **more: Any) -> dict[str, Any]:
    name = {"name": more.pop("name")} if more.get("name") else {}
    return {"index": index, **more, "function": {**name, "arguments": arguments}}


ANSWER = (
    ": keep-alive\n\n"
    + chunk(role="assistant", content="")
    + chunk(content="Félix ")
    + chunk(content="🏒")
    + chunk(tool_calls=[call(0, '{"x', id="a", name="f"), call(1, "{}", id="b", name="g")])
    + chunk(tool_calls=[call(0, '": 1}')])
    + 'data: {"choices": [], "usage": {"completion_tokens": 3}}\n\ndata: [DONE]\n\n'
).encode()


def parts(data: bytes, cuts: list[int]) -> list[dict[str, Any]]:
    edges = sorted({0, len(data), *(cut % len(data) for cut in cuts)})
    pairs = itertools.pairwise(edges)
    return [{"PayloadPart": {"Bytes": data[start:end]}} for start, end in pairs]


@given(cuts=st.lists(st.integers(min_value=0), max_size=12))
def test_a_stream_may_be_cut_anywhere(cuts: list[int]) -> None:
    said = Stream("e", parts(ANSWER, cuts))
    assert list(said) == ["Félix ", "🏒"]
    assert said.message == {
        "role": "assistant",
        "content": "Félix 🏒",
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
            {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        ],
    }


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'data: {"error": {"message": "out of memory"}}\n\n', "could not go on: out of memory"),
        (b'{"error": {"message": "no such model"}}', "could not go on: no such model"),
        (b"data: {oops\n\n", "gave no chat completion"),
        (b"data: 7\n\n", "gave no chat completion"),
        (b'data: {"choices": [{}]}\n\n', "gave no chat completion"),
    ],
)
def test_a_stream_that_breaks_says_so(data: bytes, said: str) -> None:
    with pytest.raises(EndpointError, match=said):
        list(Stream("e", parts(data, [])))


class Runtime:
    """A client whose calls fail in one way."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def invoke_endpoint(self, **_: Any) -> Any:
        raise self.error

    invoke_endpoint_with_response_stream = invoke_endpoint


def failure(code: str, message: str, **more: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}, **more}, "InvokeEndpoint")


@pytest.mark.parametrize("call_it", [ask, stream])
def test_failures_are_told_apart(call_it: Any) -> None:
    with pytest.raises(NoEndpoint, match="there is no endpoint e"):
        call_it("e", QUESTION, runtime=Runtime(failure("ValidationError", "Endpoint e of account 1 not found.")))
    with pytest.raises(EndpointError, match="could not answer: no such model"):
        call_it("e", QUESTION, runtime=Runtime(failure("ModelError", "long", OriginalMessage="no such model")))
    with pytest.raises(ClientError, match="not authorized"):
        call_it("e", QUESTION, runtime=Runtime(failure("AccessDeniedException", "not authorized")))


class OfComponents:
    """A client of an endpoint that hosts a component, in SageMaker's words."""

    def __init__(self, copies: int = 1) -> None:
        self.copies = copies
        self.hosts = True
        self.asked: list[dict[str, Any]] = []

    def invoke_endpoint(self, **asked: Any) -> dict[str, Any]:
        self.asked.append(asked)
        if ("InferenceComponentName" in asked) != self.hosts:
            said = "is required for endpoints to which you …" if self.hosts else "is not allowed for endpoints to …"
            raise failure("ValidationError", f"Inference Component Name header {said}")
        if not self.copies:
            raise failure("ValidationError", "Inference Component has no capacity to process this request. …")
        named = asked.get("InferenceComponentName", "none")
        answer = {"choices": [{"message": {"role": "assistant", "content": named}}]}
        return {"Body": io.BytesIO(json.dumps(answer).encode())}

    invoke_endpoint_with_response_stream = invoke_endpoint


def test_a_component_is_found_once_and_asked_for_by_the_endpoints_name() -> None:
    runtime = OfComponents()
    assert [ask("found-once", QUESTION, runtime=runtime)["content"] for _ in range(2)] == ["found-once"] * 2
    assert ["InferenceComponentName" in asked for asked in runtime.asked] == [False, True, True]


def test_an_endpoint_that_was_made_again_without_components_is_asked_without() -> None:
    runtime = OfComponents()
    assert ask("made-again", QUESTION, runtime=runtime)["content"] == "made-again"
    runtime.hosts = False
    assert [ask("made-again", QUESTION, runtime=runtime)["content"] for _ in range(2)] == ["none"] * 2
    assert ["InferenceComponentName" in asked for asked in runtime.asked[2:]] == [True, False, False]


@pytest.mark.parametrize("call_it", [ask, stream])
def test_an_endpoint_that_sleeps_says_so(call_it: Any) -> None:
    with pytest.raises(Asleep, match="endpoint sleeper is asleep or waking: ask again"):
        call_it("sleeper", QUESTION, runtime=OfComponents(copies=0))


def test_a_container_that_fails_while_it_speaks() -> None:
    def events() -> Any:
        yield parts(chunk(content="Suz").encode(), [])[0]
        raise EventStreamError({"Error": {"Code": "ModelStreamError", "Message": "it died"}}, "Invoke")

    said = Stream("e", events())
    with pytest.raises(EndpointError, match="could not answer: it died"):
        list(said)
    assert said.message["content"] == "Suz"
