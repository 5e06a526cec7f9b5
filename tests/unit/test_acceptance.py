from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from heartbeat import acceptance
from heartbeat.requests import BASE_NAME, TUNED_NAME


def completion(content: str | None, tool_calls: list[dict[str, Any]] | None = None) -> bytes:
    message = {"role": "assistant", "content": content, "tool_calls": tool_calls}
    return json.dumps({"choices": [{"message": message}], "usage": {"completion_tokens": 7}}).encode()


def answer(model: str, raw: bytes, question: str = "Who won?") -> acceptance.Answer:
    return acceptance.read_answer(raw, model=model, question=question, seconds=0.5)


def test_an_adapter_that_changes_the_answer_is_accepted() -> None:
    found = acceptance.judge([answer(TUNED_NAME, completion("Stanley here!")), answer(BASE_NAME, completion("Hello."))])
    assert found.passed
    assert "changes 1 of 1" in found.reasons[0]


def test_an_ignored_adapter_is_not() -> None:
    found = acceptance.judge([answer(TUNED_NAME, completion("Hello.")), answer(BASE_NAME, completion("Hello."))])
    assert not found.passed
    assert "ignores the adapter" in found.reasons[0]


def test_no_answers_is_no_acceptance() -> None:
    assert not acceptance.judge([]).passed
    assert not acceptance.judge([answer(TUNED_NAME, completion("Hello."))]).passed


def test_tool_calls_count_as_an_answer_and_must_be_json() -> None:
    call = {"function": {"name": "parquet_query", "arguments": '{"sql": "select 1"}'}}
    assert answer(TUNED_NAME, completion(None, [call])).problem is None
    broken = {"function": {"name": "parquet_query", "arguments": "{sql: 1"}}
    assert "not a chat completion" in str(answer(TUNED_NAME, completion(None, [broken])).problem)


def test_an_empty_answer_is_a_problem() -> None:
    found = acceptance.judge([answer(TUNED_NAME, completion(" ")), answer(BASE_NAME, completion("Hello."))])
    assert not found.passed
    assert found.reasons == ["stanley: the answer is empty"]


@given(
    st.binary()
    | st.recursive(st.none() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)).map(
        lambda value: json.dumps({"choices": value}).encode()
    )
)
def test_any_body_is_read_or_reported(raw: bytes) -> None:
    assert acceptance.read_answer(raw, model="m", question="q", seconds=0.0).problem


def test_probes_are_the_datasets_own_openings() -> None:
    rows = [
        {
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": f"q{index}"},
                {"role": "assistant", "content": "a"},
            ],
            "tools": [{"name": "t"}],
        }
        for index in range(5)
    ]
    found = acceptance.probes([b"", *(json.dumps(row).encode() for row in rows)])
    assert [probe.question for probe in found] == ["q0", "q1", "q2"]
    assert [message["role"] for message in found[0].messages] == ["system", "user"]
    body = acceptance.body(found[0], TUNED_NAME)
    assert (body["temperature"], body["tools"]) == (0.0, [{"name": "t"}])
