"""The acceptance check: an endpoint that is in service, but ignores its adapter or answers worse, is not accepted.

vLLM drops an adapter whose key names it does not know without a word and answers with the base model; only the
answers show it. What is worse than the gate saw: see heartbeat.acceptance_sample.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from heartbeat import requests
from heartbeat.acceptance_sample import SampleVerdict, Speed
from heartbeat.cases import Case
from heartbeat.tool_calls import write_calls

NUM_PROBES = 3
EMPTY = "the answer is empty"


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


def body_of_case(case: Case, model: str, *, max_tokens: int) -> dict[str, Any]:
    """The chat request of one turn of the sample, greedy as in training."""
    return requests.chat(model=model, messages=case.prompt, tools=case.declared, max_tokens=max_tokens)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the endpoint said. `text` is the answer, or its tool calls as models write them; `problem` says why it has
    none."""

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
        text = write_calls(calls) if calls else str(message.get("content") or "")
        if not text.strip():
            problem = EMPTY
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        problem = f"the answer is not a chat completion ({type(error).__name__}: {error})"
    return Answer(model=model, question=question, text=text, seconds=seconds, num_tokens=num_tokens, problem=problem)


@dataclass(frozen=True, kw_only=True)
class Acceptance:
    passed: bool
    reasons: Sequence[str]
    answers: Sequence[Answer] = field(default_factory=tuple)
    sample: SampleVerdict | None = None
    """None where the gate judged by the loss alone."""
    speed: Speed | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def judge(
    answers: Sequence[Answer],
    *,
    kept: Sequence[Answer] = (),
    said: Sequence[Answer] = (),
    sample: SampleVerdict | None = None,
    speed: Speed | None = None,
) -> Acceptance:
    """Accepts when every answer can be read, the adapter changes at least one of them, the adapters that the endpoint
    had before still answer (`kept`), and what was `said` to the held-out rows is as good as the gate lets expect."""
    # To questions that are not its own an adapter may say nothing; a held-out turn without an answer counts as wrong.
    silent = [answer for answer in (*kept, *said) if answer.problem not in (None, EMPTY)]
    bad = [f"{answer.model}: {answer.problem}" for answer in (*answers, *silent) if answer.problem]
    base = {answer.question: answer.text for answer in answers if answer.model == requests.BASE_NAME}
    tuned = {answer.question: answer.text for answer in answers if answer.model != requests.BASE_NAME}
    both = base.keys() & tuned.keys()
    changed = sum(base[question] != tuned[question] for question in both)
    failures = bad
    if not bad and not both:
        failures = ["no question was answered by both models"]
    elif not bad and not changed:
        failures = [
            f"all {len(both)} answers with the adapter are the base model's, letter for letter:"
            " the endpoint ignores the adapter"
        ]
    elif not bad and sample is not None:
        failures = list(sample.failures)
    reasons = failures
    if not failures:
        slowest = max(answer.seconds for answer in answers)
        reasons = [f"the adapter changes {changed} of {len(both)} answers; slowest answer {slowest:.1f} s"]
        reasons += [sample.summary] if sample else []
        reasons += [speed.summary] if speed else []
    return Acceptance(passed=not failures, reasons=reasons, answers=[*answers, *kept], sample=sample, speed=speed)
