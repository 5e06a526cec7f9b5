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
MEASURED_TOKENS = 402_555
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


def load(name: str) -> dict[str, Any]:
    return tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))


def words(topic: str) -> dict[str, Any]:
    found: dict[str, Any] = load("talk")[topic]
    return found


def said(row: dict[str, Any], role: str) -> list[str]:
    return [message["content"] for message in row["messages"] if message["role"] == role and message["content"]]


def queries(row: dict[str, Any]) -> list[tuple[dict[str, str], list[dict[str, Any]]]]:
    """The arguments of each call with the rows that came back by name; none where it found none."""
    results = {m["tool_call_id"]: json.loads(m["content"]) for m in row["messages"] if m["role"] == "tool"}
    found = []
    for call in (call for message in row["messages"] for call in tool_calls(message)):
        result = results[call["id"]]
        lines = result.get("rows", [])
        if "columns" in result:
            lines = [dict(zip(result["columns"], line, strict=True)) for line in lines]
        found.append((arguments(call), lines))
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


def test_other_words_ask_the_same_in_words_that_the_dataset_has_not(rows: list[dict[str, Any]]) -> None:
    text = made("--words", "other", "--rows", "200")
    found = check(text.splitlines(keepends=True), near_duplicates=True)
    assert found.ok
    assert not found.findings
    others = [json.loads(line) for line in text.splitlines()]
    assert {route(row) for row in others} == {route(row) for row in rows}
    usual = {question for row in rows for question in said(row, "user")}
    asked = [said(row, "user")[0] for row in others if route(row)]
    assert sum(question in usual for question in asked) < 0.02 * len(asked)
    other = load("other_words")
    for fact in load("history")["fact"]:
        (words,) = (each["questions"] for each in other["fact"] if each["title"] == fact["query"]["en"])
        for language in ("en", "fr"):
            assert not set(words[language]) & set(fact["questions"][language])
    both = made("--words", "all", "--rows", "200")
    begun = {question for row in map(json.loads, both.splitlines()) for question in said(row, "user")}
    assert begun & usual
    assert len(begun - usual) > 50


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
    for tools, share in (("parquet_query", 0.28), ("pinecone_search", 0.35), ("", 0.16)):
        assert routes[tools] / len(rows) == pytest.approx(share, abs=0.02)
    both = [row for row in rows if route(row) == "parquet_query + pinecone_search"]
    assert len(both) / len(rows) == pytest.approx(0.21, abs=0.02)
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
    facts = load("history")["fact"]
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
    heard = {row["messages"][-1]["content"] for row in training}
    unheard = [row for row in heldout if row["messages"][-1]["content"] not in heard]
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


SAME = {
    "back-to-back": "deux soirs",
    "bench": "banc",
    "blue line": "ligne bleue",
    "coach": "entraîneur",
    "defencemen": "défenseurs",
    "details": "détails",
    "front of the net": "devant du filet",
    "good looks": "bonnes chances",
    "his line": "trio",
    "legs": "jambes",
    "minutes": "minutes",
    "moments": "moments",
    "pairing": "duo",
    "partner": "partenaire",
    "first pass": "première passe",
    "races": "courses",
    "rebound": "retour",
    "rush": "contre-attaque",
    "shot comes": "tir quitte",
    "shoulder": "épaule",
    "turnovers": "revirements",
    "winger": "ailier",
}
"""Words of what is written of players, in English and in French."""


def test_what_is_written_of_a_player_means_the_same_in_both_languages() -> None:
    pairs = [pair for pairs in load("stats")["views"].values() for pair in pairs]
    assert len(pairs) > 20
    for english, french in pairs:
        meanings = [{word for word in SAME if word in english}, {word for word in SAME if SAME[word] in french}]
        assert meanings[0] == meanings[1] != set(), f"{english} is not {french}"
    for place in (0, 1):
        assert len({pair[place] for pair in pairs}) == len(pairs)


def test_what_is_written_of_a_player_fits_his_position(rows: list[dict[str, Any]]) -> None:
    of = {"forward": "Suzuki|Caufield|Slafkovský|Evans|Dach|Gallagher|Anderson|Newhook|Demidov|Bolduc"}
    of["defence"] = "Guhle|Matheson|Xhekaj|Struble|Hutson|Dobson"
    texts = "\n".join(text for row in rows for text in said(row, "tool"))
    for position, names in of.items():
        for view in (view for pair in load("stats")["views"][position] for view in pair):
            written = set(re.findall(rf"(\w+) ?: {re.escape(view)}", texts))
            assert written <= set(names.split("|")), f"{written} are no {position}: {view}"


ORDINARY = {"Canadien", "Canadiens", "Coupe", "Coupes", "Cup", "Cups", "LNH", "Montreal", "Montréal", "NHL", "Stanley"}
ORDINARY |= {"Trophies", "Trophy"}
"""Names that an answer may leave out, since they are understood."""


def test_each_answer_of_a_page_answers_all_questions_of_the_page() -> None:
    """That is: it has every figure and every name that the page has."""
    for fact in load("history")["fact"]:
        for language, passage in fact["passage"].items():
            figures = set(re.findall(r"\d+", passage))
            names = {name for name in re.findall(r"(?<=[\w,;] )[A-ZÉ][\w-]+", passage) if name not in ORDINARY}
            names |= set(re.findall(r"(?<= )[A-ZÉ][\w-]+$", fact["query"][language])) - ORDINARY
            for answer in fact["answers"][language]:
                missing = (figures - set(re.findall(r"\d+", answer))) | (names - set(re.findall(r"[\w-]+", answer)))
                assert not missing, f"{answer} leaves out {missing}"
            assert [len(re.findall(r"[.!?](?=\s|$)", answer)) for answer in fact["answers"][language]] == [1, 2]


def test_who_leads_has_more(rows: list[dict[str, Any]]) -> None:
    boards = [lines for row in rows for given, lines in queries(row) if given.get("table") == "leaders" and lines]
    assert len(boards) > 50
    for board in boards:
        figures = [line[what] for line in board for what in line if what != "player"]
        assert figures[0] > figures[1] > figures[2]


def test_invented_figures_are_plausible_of_the_kind_of_player(rows: list[dict[str, Any]]) -> None:
    totals = {
        (given["player"], given["season"]): lines[0]
        for row in rows
        for given, lines in queries(row)
        if given.get("table") == "skaters" and not given.keys() & {"split", "opponent"} and lines
    }
    bounds = {
        "Nick Suzuki": (0.55, 1.3),
        "Cole Caufield": (0.55, 1.3),
        "Lane Hutson": (0.4, 0.9),
        "Jake Evans": (0.15, 0.5),
        "Arber Xhekaj": (0.1, 0.4),
        "Kaiden Guhle": (0.1, 0.4),
    }
    assert {player for player, _ in totals} >= set(bounds)
    for (player, season), line in totals.items():
        least, most = bounds.get(player, (0.1, 1.3))
        assert least <= line["points"] / line["gp"] <= most, f"{player} in {season}: {line}"


def test_nobody_says_the_same_twice_nor_asks_for_what_is_at_hand(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        calls = [call["function"]["arguments"] for message in row["messages"] for call in tool_calls(message)]
        for texts in (said(row, "user"), said(row, "assistant"), calls):
            assert len(set(texts)) == len(texts), texts


def test_thanks_are_the_last_words(rows: list[dict[str, Any]]) -> None:
    thanks = {question for mood in words("thanks").values() for pairs in mood.values() for question, _ in pairs}
    last = [row for row in rows if said(row, "user")[-1] in thanks]
    assert len(last) > 50
    for row in rows:
        assert not set(said(row, "user")[:-1]) & thanks


PRESENT = r"\b(?:does|do the|is|are|has|have we|can|should|comes|leads|plays)\b|\b[Qq]ue (?:fait|produit|vaut)\b"
PRESENT += r"|\b(?:Quelle est|vont|va|mène|[Pp]eut-on)\b"
PRESENT += r"|\b(?:joue|produit|marque|tire|gagne|garde|tient|voyage|réussit|est)(?:-t)?-(?:il|elle)\b"


def test_questions_on_a_season_that_is_over_are_in_the_past(rows: list[dict[str, Any]]) -> None:
    past = []
    for row in rows:
        question = said(row, "user")[0]
        over = re.search(r"202[2-5]-2[3-6]|last season|saison dernière", question)
        past += [question] if over and route(row) == "parquet_query" else []
    assert len(past) > 200
    for question in past:
        assert not re.search(PRESENT, question.replace("it is for my neighbour", "")), question


ASKING = {"what", "how", "who", "when", "which", "why", "is", "was", "does", "did", "do", "the", "combien", "quelle"}
ASKING |= {"qui", "quand", "la", "le", "les", "comment", "est-ce", "que", "pourquoi"}
"""Words that have a capital only where a sentence begins."""


def test_prose_is_as_people_write(rows: list[dict[str, Any]]) -> None:
    choices = [choice for topic in ("opener", "instead") for choices in words(topic).values() for choice in choices]
    openers = {opener for choice in choices if (opener := choice.partition("{")[0]).strip().endswith(":")}
    for row in rows:
        for text in said(row, "user") + said(row, "assistant"):
            assert not re.search(r"\d{4}-\d\d-\d\d", text), f"{text} has a computer's date"
            assert not re.search(r"[\[\]{}]", text), f"{text} is a template"
            assert not re.search(r"(?<![\d.,-])1 (?:goals|assists|points|games|wins|buts|passes|matchs)\b", text), text
        for text in said(row, "user"):
            assert text.count(":") < 2, f"{text} opens twice"
            for opener in openers:
                first = text.removeprefix(opener).split()[0] if text.startswith(opener) else ""
                assert first.strip("?,.").lower() not in ASKING or first[:1].islower(), text
