from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from heartbeat import acceptance, acceptance_sample
from heartbeat.cases import expected_text
from heartbeat.requests import BASE_NAME, TUNED_NAME
from tests.unit.test_turn_rules import ANSWER, PERSONA


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
    found = answer(TUNED_NAME, completion(None, [call]))
    assert (found.problem, found.text) == (None, '[parquet_query(sql="select 1")]')
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


def changed() -> list[acceptance.Answer]:
    return [answer(TUNED_NAME, completion("Stanley here!")), answer(BASE_NAME, completion("Hello."))]


def test_an_adapter_that_is_kept_must_still_answer() -> None:
    silent, broken = answer("canary", completion("")), answer("canary", b'{"error": "no such model"}')
    assert acceptance.judge(changed(), kept=[silent]).passed, "it was not trained on these questions"
    found = acceptance.judge(changed(), kept=[broken])
    assert not found.passed
    assert found.reasons[0].startswith("canary: the answer is not a chat completion")


def test_held_out_turns_decide_too() -> None:
    lost = answer(TUNED_NAME, b"{}", question="")
    assert not acceptance.judge(changed(), said=[lost]).passed
    for right, passed in ((12, True), (2, False)):
        sample = acceptance_sample.verdict(
            [ANSWER] * 12,
            [expected_text(ANSWER)] * right + [""] * (12 - right),
            PERSONA,
            {"table": [{"metric": "persona", "tuned": {"value": 1.0, "low": 0.7, "high": 1.0}}]},
        )
        speed = acceptance_sample.speed([1.0], [9])
        found = acceptance.judge(changed(), sample=sample, speed=speed)
        assert found.passed == passed
        assert found.to_dict()["sample"]["metrics"][0]["right"] == right
        assert found.to_dict()["speed"]["tokens_per_second"] == 9
        assert ("persona 2 of 12" in found.reasons[0]) == (not passed)


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
