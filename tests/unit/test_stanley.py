"""The example dataset: what make.py writes is what is committed, it is sound, varied, and grounded."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from heartbeat import conversation
from heartbeat.cases import Case, cases, expected_text
from heartbeat.constraints import constraints
from heartbeat.conversation import arguments, tool_calls
from heartbeat.dataset import DatasetReport, check, read
from heartbeat.doubts import language_of, may_be
from heartbeat.held_out import split

FOLDER = Path(__file__).parents[2] / "examples" / "stanley"
MEASURED_TOKENS = 294_778
"""With llama-models 0.3.0's tokenizer; see BYTES_PER_TOKEN."""


def made(*options: str) -> bytes:
    command = [sys.executable, str(FOLDER / "make.py"), *options]
    return subprocess.run(command, check=True, capture_output=True).stdout


@pytest.fixture(scope="module")
def report() -> DatasetReport:
    with (FOLDER / "stanley.jsonl").open("rb") as lines:
        return check(lines, near_duplicates=True)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    with (FOLDER / "stanley.jsonl").open("rb") as lines:
        return list(read(lines))


@pytest.fixture(scope="module")
def answers(rows: list[dict[str, Any]]) -> list[tuple[Case, str, str]]:
    """Each turn that answers, with what the user asked last and what is answered."""
    found = [case for case in cases(rows) if case.is_answer]
    return [(case, asked(case)[0], expected_text(case)) for case in found]


def asked(case: Case) -> list[str]:
    """The user's messages before a turn, the latest first."""
    return [message["content"] for message in reversed(case.prompt) if message["role"] == "user"]


def words(topic: str) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((FOLDER / "talk.toml").read_text(encoding="utf-8"))[topic]
    return found


def test_the_committed_file_is_what_the_script_writes() -> None:
    assert made() == (FOLDER / "stanley.jsonl").read_bytes()


def test_another_seed_gives_other_conversations_and_any_number_of_them() -> None:
    text = made("--seed", "1", "--rows", "700")
    assert text == made("--seed", "1", "--rows", "700")
    other = check(text.splitlines(keepends=True))
    assert other.ok
    assert other.stats.rows == 700
    assert other.stats.duplicate_rows == 0
    assert text[:2000] != (FOLDER / "stanley.jsonl").read_bytes()[:2000]


def test_every_row_is_sound_and_none_nearly_repeats_another(report: DatasetReport) -> None:
    assert report.ok
    assert not report.findings
    assert report.summary.near_duplicate_rows == 0
    assert report.stats.rows >= 1200
    assert report.stats.bytes < 2_500_000


def test_the_estimate_of_tokens_is_near_the_measured_count(report: DatasetReport) -> None:
    assert report.stats.tokens == pytest.approx(MEASURED_TOKENS, rel=0.03)


def test_rows_are_short(rows: list[dict[str, Any]]) -> None:
    lengths = [conversation.length(row).tokens for row in rows]
    assert statistics.median(lengths) < 250
    assert max(lengths) < 900


def test_all_ways_of_routing_are_there(rows: list[dict[str, Any]]) -> None:
    routes = Counter(route(row) for row in rows)
    for tools, share in (("parquet_query", 0.35), ("pinecone_search", 0.29), ("", 0.16)):
        assert routes[tools] / len(rows) == pytest.approx(share, abs=0.02)
    both = [row for row in rows if route(row) == "parquet_query + pinecone_search"]
    assert len(both) / len(rows) == pytest.approx(0.20, abs=0.02)
    roles = [" ".join(message["role"] for message in row["messages"]) for row in both]
    at_once = sum("assistant tool tool assistant" in text for text in roles)
    in_turn = sum("assistant tool assistant tool assistant" in text for text in roles)
    assert min(at_once, in_turn) > 20


def test_users_ask_one_to_six_times_and_refer_back(rows: list[dict[str, Any]]) -> None:
    turns = Counter(sum(message["role"] == "user" for message in row["messages"]) for row in rows)
    assert set(turns) == {1, 2, 3, 4, 5, 6}
    assert turns[1] < 0.65 * len(rows)
    # Follow-ups whose call has a player or a season that only earlier messages tell.
    unnamed = 0
    for row in rows:
        questions: list[str] = []
        for message in row["messages"]:
            questions += [message["content"]] if message["role"] == "user" else []
            if tool_calls(message) and len(questions) > 1:
                given = [arguments(call) for call in tool_calls(message)]
                tells_season = re.search(r"\d{4}-\d\d|season|saison|\b(?:10|ten|dix)\b", questions[-1])
                players = [each["player"].split()[-1] for each in given if "player" in each]
                unnamed += any(player not in questions[-1] for player in players) or (
                    tells_season is None and any("season" in each for each in given)
                )
    assert unnamed > 150


def test_words_that_point_to_the_wrong_tool_do_not_decide(rows: list[dict[str, Any]]) -> None:
    for topic, tool in (("trap_archive", "pinecone_search"), ("trap_statistics", "parquet_query")):
        traps = [text.split("{question}")[0] for texts in words(topic).values() for text in texts]
        trapped = [row["messages"] for row in rows if row["messages"][1]["content"].startswith(tuple(traps))]
        assert len(trapped) > 10
        assert all(tool_calls(messages[2])[0]["function"]["name"] == tool for messages in trapped)


def test_a_search_is_for_a_player_or_for_a_pages_title(rows: list[dict[str, Any]]) -> None:
    facts = tomllib.loads((FOLDER / "history.toml").read_text(encoding="utf-8"))["fact"]
    titles = {(title, fact["category"]) for fact in facts for title in fact["query"].values()}
    calls = [call for row in rows for message in row["messages"] for call in tool_calls(message)]
    players = {arguments(call)["player"] for call in calls if "player" in arguments(call)}
    searches = [arguments(call) for call in calls if call["function"]["name"] == "pinecone_search"]
    assert len(searches) > 500
    for search in searches:
        if search["category"] in ("article", "commentary"):
            assert search["query"] in players
        else:
            assert (search["query"], search["category"]) in titles


def test_users_ask_for_forms_and_get_them(rows: list[dict[str, Any]], answers: list[tuple[Case, str, str]]) -> None:
    shaped: dict[int, str] = {}
    asks = Counter[str]()
    for case, question, answer in answers:
        for constraint in constraints(question):
            assert constraint.is_kept_by(answer), f"{answer} is not {constraint.asks}"
            asks[constraint.asks] += 1
            shaped[case.conversation] = route(rows[case.conversation])
    assert len(shaped) > 0.08 * len(rows)
    assert min(Counter(shaped.values()).values()) > 10
    assert len(set(shaped.values())) == 4
    common = {"exactly 1 sentences", "exactly 2 sentences", "capitals", "a list", "language en", "language fr"}
    assert common <= set(asks)


def test_answers_are_in_the_users_language(answers: list[tuple[Case, str, str]]) -> None:
    told = 0
    for case, question, answer in answers:
        if any(constraint.asks.startswith("language") for constraint in constraints(question)):
            continue
        language = next((found for text in asked(case) if (found := language_of(text)) != "unknown"), None)
        assert language is None or may_be(answer, language), f"{answer} is not in {language}, as {question}"
        told += language is not None
    assert told > 0.8 * len(answers)


def route(row: dict[str, Any]) -> str:
    return " + ".join(sorted({call["function"]["name"] for m in row["messages"] for call in tool_calls(m)}))


def test_held_out_questions_are_no_copies(rows: list[dict[str, Any]]) -> None:
    questions = [row["messages"][1]["content"] for row in rows]
    assert len(set(questions)) == len(questions)
    found = split(rows, 0.1)
    training, heldout = found.training, found.heldout
    assert len(heldout) >= 100
    assert not found.left_out
    said = {row["messages"][-1]["content"] for row in training}
    unheard = [row for row in heldout if row["messages"][-1]["content"] not in said]
    assert len(unheard) > len(heldout) / 2


def grounded(row: dict[str, Any]) -> Iterator[tuple[str, set[str], set[str]]]:
    """Each answer after a tool result, its numbers, and those that it may have."""
    known: set[str] = set()
    called = False
    for message in row["messages"][1:]:
        text = (message["content"] or "").replace("1,246", "1246")
        numbers = set(re.findall(r"\d+", text))
        numbers |= {decimals.ljust(3, "0") for decimals in re.findall(r"0\.(\d+)", text)}  # 0.93 is said as .930
        if message["role"] == "assistant" and message["content"] and called:
            yield message["content"], numbers, known
        elif message["role"] in ("user", "tool"):
            known |= numbers
            called = called or message["role"] == "tool"


def test_answers_give_no_figure_that_the_tools_did_not(rows: list[dict[str, Any]]) -> None:
    given = [answer for row in rows for answer in grounded(row)]
    assert len(given) > 1000
    assert sum(bool(numbers) for _, numbers, _ in given) > 800
    for answer, numbers, known in given:
        assert numbers <= known, f"{answer} gives {numbers - known}"


def test_invented_results_say_so(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        for message in row["messages"]:
            if message["role"] == "tool":
                result = json.loads(message["content"])
                assert result.get("sample") is True or "rows" not in result
                assert result.keys() & {"rows", "matches", "error"}


def test_both_languages_are_there(report: DatasetReport) -> None:
    languages = report.summary.languages
    assert set(languages) == {"en", "fr", "unknown"}
    assert 0.35 < languages["fr"] / report.stats.rows < 0.45
    assert languages["unknown"] < 0.05 * report.stats.rows
