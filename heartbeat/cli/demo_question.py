"""What the demo asks: a row of the dataset that the run kept from training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from heartbeat import conversation, dataset, held_out, layout, requests
from heartbeat.cli.account import App
from heartbeat.cli.endpoint import Endpoint, shown
from heartbeat.cli.errors import Failed
from heartbeat.job import FineTuneJob

_OPENING = ["system", "user", "assistant", "tool", "assistant"]


def ask(app: App, run: str, dataset_file: Path) -> Iterator[tuple[str, str]]:
    """(who, what they say), line by line: the question, the base's answer, then the tuned model's.

    Where the tuned model calls a tool it gets the row's own result, and goes on; the row's own call is shown too, so
    that one sees whether the result is that of the model's.
    """
    plan = app.read_json(layout.Run(run).plan) or {}
    job = FineTuneJob.from_hyperparameters(plan.get("hyperparameters", {}))
    row = question(dataset_file, job)
    system, user, called, tool = row["messages"][:4]
    endpoint = Endpoint(name=app.endpoint_name, tools=row["tools"], max_tokens=96)
    yield "question", user["content"]
    yield requests.BASE_NAME, shown(endpoint.ask([system, user], requests.BASE_NAME))
    answer = endpoint.ask([system, user], requests.TUNED_NAME)
    yield requests.TUNED_NAME, shown(answer)
    if calls := answer.get("tool_calls"):
        yield "right", shown(called)
        yield "tool", tool["content"]
        said = {"role": "assistant", "content": None, "tool_calls": calls}
        result = {**tool, "tool_call_id": calls[0]["id"]}
        yield requests.TUNED_NAME, shown(endpoint.ask([system, user, said, result], requests.TUNED_NAME))


def question(dataset_file: Path, job: FineTuneJob) -> dict[str, Any]:
    """The held-out row with tools whose assistant looks something up and answers; of several, the first of those whose
    call takes most of its arguments from the question: who reads along sees what is right."""
    with dataset_file.open("rb") as lines:
        rows = [
            row
            for row in dataset.read(lines)
            if row.get("tools")
            and [message["role"] for message in row["messages"][: len(_OPENING)]] == _OPENING
            and held_out.is_held_out(row, job.held_out_fraction, job.seed)
        ]
    if not rows:
        raise Failed(f"{dataset_file} has no held-out row with a tool call to ask about")
    return max(rows, key=_arguments_in_question)


def _arguments_in_question(row: Mapping[str, Any]) -> int:
    _, user, called = row["messages"][:3]
    given = conversation.arguments(conversation.tool_calls(called)[0])
    return sum(str(value) in user["content"] for value in given.values())
