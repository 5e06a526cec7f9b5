"""What the demo asks at its end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from heartbeat import held_out
from heartbeat.cli.demo_question import question
from heartbeat.cli.errors import Failed
from heartbeat.job import FineTuneJob

JOB = FineTuneJob()
TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}]


def row(asked: str, **given: str) -> dict[str, Any]:
    call = {"id": "c", "type": "function", "function": {"name": "find", "arguments": given}}
    return {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": asked},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": "3"},
            {"role": "assistant", "content": "Three."},
        ],
        "tools": TOOLS,
    }


def kept(asked: str, *, is_held_out: bool = True, **given: str) -> dict[str, Any]:
    """A row of this kind that a run with default settings holds out, or trains on."""
    rows = (row(f"{asked} {number}", **given) for number in range(1000))
    return next(one for one in rows if held_out.is_held_out(one, JOB.held_out_fraction, JOB.seed) == is_held_out)


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def test_a_call_that_is_read_out_of_the_question_shows_most(tmp_path: Path) -> None:
    best = kept("Newhook at home in 2024-25?", player="Newhook", season="2024-25", table="skaters")
    file = write(
        tmp_path / "rows.jsonl",
        kept("Suzuki at home in 2025-26?", is_held_out=False, player="Suzuki", season="2025-26", split="home"),
        {**kept("Hutson against Ottawa in 2024-25, home?", a="Hutson", b="Ottawa", c="2024-25"), "tools": None},
        kept("Who coached then?", query="Scotty Bowman"),
        best,
        kept("Evans last year, 2025-26?", player="Evans", season="2025-26"),
    )
    assert question(file, JOB)["messages"] == best["messages"]


def test_a_dataset_without_such_a_row_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", kept("Suzuki?", is_held_out=False, player="Suzuki"))
    with pytest.raises(Failed, match=r"rows\.jsonl has no held-out row with a tool call"):
        question(file, JOB)
