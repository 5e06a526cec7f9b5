"""The example dataset: what make.py writes is what is committed, it is sound, varied, and grounded."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from heartbeat import conversation
from heartbeat.conversation import tool_calls
from heartbeat.dataset import DatasetReport, check, read
from heartbeat.held_out import split

FOLDER = Path(__file__).parents[2] / "examples" / "stanley"
MEASURED_TOKENS = 83_094
"""With llama-models 0.3.0's tokenizer; see BYTES_PER_TOKEN."""


def made(*options: str) -> bytes:
    command = [sys.executable, str(FOLDER / "make.py"), *options]
    return subprocess.run(command, check=True, capture_output=True).stdout


@pytest.fixture(scope="module")
def report() -> DatasetReport:
    with (FOLDER / "stanley.jsonl").open("rb") as lines:
        return check(lines)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    with (FOLDER / "stanley.jsonl").open("rb") as lines:
        return list(read(lines))


def test_the_committed_file_is_what_the_script_writes() -> None:
    assert made() == (FOLDER / "stanley.jsonl").read_bytes()


def test_another_seed_gives_other_conversations_and_any_number_of_them() -> None:
    text = made("--seed", "1", "--rows", "700")
    other = check(text.splitlines(keepends=True))
    assert other.ok
    assert other.stats.rows == 700
    assert other.stats.duplicate_rows == 0
    assert text[:2000] != (FOLDER / "stanley.jsonl").read_bytes()[:2000]


def test_every_row_is_sound_and_none_is_there_twice(report: DatasetReport) -> None:
    assert report.findings == ()
    assert report.stats.rows >= 300
    assert report.stats.bytes < 1_000_000


def test_the_estimate_of_tokens_is_near_the_measured_count(report: DatasetReport) -> None:
    assert report.stats.tokens == pytest.approx(MEASURED_TOKENS, rel=0.03)


def test_rows_are_short(rows: list[dict[str, Any]]) -> None:
    assert statistics.median(conversation.length(row).tokens for row in rows) < 250


def test_all_ways_of_routing_are_there(rows: list[dict[str, Any]]) -> None:
    routes = [frozenset(call["function"]["name"] for m in row["messages"] for call in tool_calls(m)) for row in rows]
    shares = {route: routes.count(route) / len(routes) for route in set(routes)}
    assert shares[frozenset({"parquet_query"})] > 0.3
    assert shares[frozenset({"pinecone_search"})] > 0.2
    assert shares[frozenset({"parquet_query", "pinecone_search"})] > 0.08
    assert shares[frozenset()] > 0.1
    assert any(len(tool_calls(message)) == 2 for row in rows for message in row["messages"])
    assert any(sum(message["role"] == "user" for message in row["messages"]) == 2 for row in rows)


def test_held_out_questions_are_no_copies(rows: list[dict[str, Any]]) -> None:
    questions = [row["messages"][1]["content"] for row in rows]
    assert len(set(questions)) == len(questions)
    found = split(rows, 0.1)
    training, heldout = found.training, found.heldout
    assert len(heldout) >= 20
    said = {row["messages"][-1]["content"] for row in training}
    unheard = [row for row in heldout if row["messages"][-1]["content"] not in said]
    assert len(unheard) > len(heldout) / 2


def grounded(row: dict[str, Any]) -> Iterator[tuple[str, set[str], set[str]]]:
    """Each answer after a tool result, its numbers, and those that it may have."""
    known: set[str] = set()
    called = False
    for message in row["messages"][1:]:
        numbers = set(re.findall(r"\d+", (message["content"] or "").replace("1,246", "1246")))
        if message["role"] == "assistant" and message["content"] and called:
            yield message["content"], numbers, known
        elif message["role"] in ("user", "tool"):
            known |= numbers
            called = called or message["role"] == "tool"


def test_answers_give_no_figure_that_the_tools_did_not(rows: list[dict[str, Any]]) -> None:
    answers = [answer for row in rows for answer in grounded(row)]
    assert len(answers) > 250
    assert sum(bool(numbers) for _, numbers, _ in answers) > 200
    for answer, numbers, known in answers:
        assert numbers <= known, f"{answer} gives {numbers - known}"


def test_invented_results_say_so(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        for message in row["messages"]:
            if message["role"] == "tool":
                result = json.loads(message["content"])
                assert result.get("sample") is True or "rows" not in result


def test_both_languages_are_there(rows: list[dict[str, Any]]) -> None:
    french = sum(row["messages"][0]["content"].startswith("Tu es Stanley") for row in rows)
    assert 0.3 < french / len(rows) < 0.5
