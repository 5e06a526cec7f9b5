"""The acceptance check: an endpoint that is in service, but ignores its adapter, is not accepted.

vLLM drops an adapter whose key names it does not know without a word and answers with the base model; only the
answers show it.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from heartbeat import requests

NUM_PROBES = 3


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A conversation up to the first assistant turn, as the dataset has it."""

    messages: Sequence[dict[str, Any]]
    tools: Sequence[dict[str, Any]] = ()

    @property
    def question(self) -> str:
        return str(self.messages[-1].get("content") or "")


def probes(lines: Iterable[bytes], limit: int = NUM_PROBES) -> list[Probe]:
    """Probes of the first rows of a checked dataset that open with a question."""
    rows = (json.loads(line) for line in lines if line.strip())
    found = (_probe(row) for row in rows)
    return list(itertools.islice((probe for probe in found if probe.messages), limit))


def _probe(row: dict[str, Any]) -> Probe:
    opening = itertools.takewhile(lambda message: message["role"] in {"system", "user"}, row["messages"])
    return Probe(messages=list(opening), tools=row.get("tools") or ())


def body(probe: Probe, model: str) -> dict[str, Any]:
    """The chat request of one probe; greedy, so that a difference is the adapter's."""
    return requests.chat(model=model, messages=probe.messages, tools=probe.tools, max_tokens=64)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the endpoint said. `text` is the answer, or its tool calls as JSON; `problem` says why it has none."""

    model: str
    question: str
    text: str
    seconds: float
    num_tokens: int = 0
    problem: str | None = None


def read_answer(raw: bytes, *, model: str, question: str, seconds: float) -> Answer:
    """The Answer in a chat.completion body. Never raises: a body of another form is a problem to report."""
    text, num_tokens, problem = "", 0, None
    try:
        completion = json.loads(raw)
        message = completion["choices"][0]["message"]
        num_tokens = int((completion.get("usage") or {}).get("completion_tokens") or 0)
        calls = message.get("tool_calls") or []
        for call in calls:
            json.loads(call["function"]["arguments"])
        text = json.dumps([call["function"] for call in calls]) if calls else str(message.get("content") or "")
        if not text.strip():
            problem = "the answer is empty"
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        problem = f"the answer is not a chat completion ({type(error).__name__}: {error})"
    return Answer(model=model, question=question, text=text, seconds=seconds, num_tokens=num_tokens, problem=problem)


@dataclass(frozen=True, kw_only=True)
class Acceptance:
    passed: bool
    reasons: Sequence[str]
    answers: Sequence[Answer] = field(default_factory=tuple)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def judge(answers: Sequence[Answer]) -> Acceptance:
    """Accepts when every answer can be read and the adapter changes at least one of them."""
    bad = [f"{answer.model}: {answer.problem}" for answer in answers if answer.problem]
    base = {answer.question: answer.text for answer in answers if answer.model == requests.BASE_NAME}
    tuned = {answer.question: answer.text for answer in answers if answer.model != requests.BASE_NAME}
    both = base.keys() & tuned.keys()
    changed = sum(base[question] != tuned[question] for question in both)
    if bad:
        return Acceptance(passed=False, reasons=bad, answers=answers)
    if not both:
        return Acceptance(passed=False, reasons=["no question was answered by both models"], answers=answers)
    if not changed:
        reason = (
            f"all {len(both)} answers with the adapter are the base model's, letter for letter:"
            " the endpoint ignores the adapter"
        )
        return Acceptance(passed=False, reasons=[reason], answers=answers)
    slowest = max(answer.seconds for answer in answers)
    reason = f"the adapter changes {changed} of {len(both)} answers; slowest answer {slowest:.1f} s"
    return Acceptance(passed=True, reasons=[reason], answers=answers)
