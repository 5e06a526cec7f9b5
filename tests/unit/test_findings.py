"""What the check finds beyond a row's form: doubtful content, near-duplicates, overlap, imbalance; and the summary."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartbeat.dataset import check
from heartbeat.held_out import split
from heartbeat.job import FineTuneJob
from heartbeat.similar import NEAR, NearRows, SeenRows, likeness, sketch_of
from tests.unit.test_dataset import SOUND, assistant, call, calling, line, system, tool, user

WORDS = [f"word{i}" for i in range(400)]


def declared(**parameters: Any) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": "pinecone_search", "parameters": parameters}}]


def codes(*lines: bytes, **options: Any) -> list[str]:
    return [finding.code for finding in check(lines, **options).findings]


def test_a_key_that_is_there_twice_is_an_error_at_any_depth() -> None:
    message = b'{"role": "user", "content": "a", "content": "b"}'
    report = check([b'{"messages": [' + message + b', {"role": "assistant", "content": "c"}]}'])
    assert report.errors[0].code == "duplicate_key"
    assert 'has the key "content" twice in one object' in report.errors[0].message
    assert codes(line(user(), calling(call(arguments='{"a": 1, "a": 2}')))) == ["bad_arguments"]
    report = check([line(user(), calling(call(arguments='{"a": 1, "a": 2}')))])
    assert 'has arguments whose text has the key "a" twice in one object' in report.errors[0].message


def test_arguments_are_held_against_the_declared_schema() -> None:
    tools = declared(type="object", properties={"query": {"type": "string"}, "top_k": {"type": "integer"}})
    tools[0]["function"]["parameters"] |= {"required": ["query"], "additionalProperties": False}
    good = line(user(), calling(call(arguments={"query": "x", "top_k": 3})), tools=tools)
    assert codes(good) == []
    for arguments, words in (
        ({"query": 3}, 'have 3 as "query", which must be of type string'),
        ({"top_k": 3}, 'lack "query"'),
        ({"query": "x", "topk": 3}, 'have "topk", which is not declared'),
        ({"query": "x", "top_k": True}, 'have true as "top_k", which must be of type integer'),
    ):
        report = check([line(user(), calling(call(arguments=arguments)), tools=tools)])
        assert [finding.code for finding in report.findings] == ["arguments_mismatch"]
        assert words in report.errors[0].message
    tools = declared(type="object", propertyNames={"pattern": "^a"})
    assert codes(line(user(), calling(call()), tools=tools)) == ["unchecked_schema"]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("I'm sorry, but I can't help with that.", "refusal"),
        ("I\u2019m unable to assist with this request.", "refusal"),
        ("Je suis désolé, je ne peux pas vous aider.", "refusal"),
        ("As an AI, I have no favourite team.", "refusal"),
        ("Your key is AKIAIOSFODNN7EXAMPLE.", "secret"),
        ("-----BEGIN RSA PRIVATE KEY-----", "secret"),
        ("Use sk-" + "a1B2" * 8, "secret"),
        ("Write to stan@canadiens.ca", "email"),
        ("Write to stan@example.com, not a task-force.", None),
        ("Sorry about the wait: Suzuki leads. I can help with more.", None),
        ("He can't skate backwards.", None),
        ("I don't have access to that.", "refusal"),
        ("I must decline to answer that question.", "refusal"),
        ("No, I won't do that.", "refusal"),
        ("Je suis désolée, je ne suis pas en mesure de répondre.", "refusal"),
        ("Je regrette, je ne peux pas t'aider avec ça.", "refusal"),
        ("No, he won't: I have the numbers here.", None),
        ("Je ne suis pas surpris: il a marqué.", None),
        ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "secret"),
        ("AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "secret"),
        ("Use ASIAIOSFODNN7EXAMPLE for now.", "secret"),
        *((f"Use gh{kind}_" + "a1B2" * 9, "secret") for kind in "oprs"),
        ("Use sk_live_" + "a1B2" * 6, "secret"),
        ("The password: hunter2", "secret"),
        ("The secret of a good password: length.", None),
        ("See icon@2x.png and @canadiensmtl.", None),
    ],
)
def test_doubtful_content_is_a_warning_that_does_not_repeat_it(answer: str, code: str | None) -> None:
    report = check([line(user(), assistant(answer))])
    assert report.ok
    assert [finding.code for finding in report.findings] == ([code] if code else [])
    assert not any("IOSFODNN7" in str(finding) or "stan@" in str(finding) for finding in report.findings)


def test_what_is_in_a_tools_arguments_counts_too() -> None:
    assert codes(line(user(), calling(call(arguments={"to": "a@b.ca"})))) == ["email"]


def test_what_is_in_the_tools_counts_too() -> None:
    tools = declared(type="object", description="use AKIAIOSFODNN7EXAMPLE, or ask stan@canadiens.ca")
    row = line(user(), assistant(), tools=tools)
    assert codes(row, row.replace(b"Habs", b"Canadiens")) == ["secret", "email"] * 2
    assert check([row]).warnings[0].message.startswith("tools holds what looks like an AWS access key")


def test_a_refusal_before_the_last_answer_is_told_and_one_that_is_not_learned_is_not() -> None:
    refusal = "I can't help with that."
    row = [user(), assistant(refusal), user("Why?"), assistant("Because of the rules.")]
    (found,) = check([line(*row)]).warnings
    assert found.message.startswith("messages[1] answers with a refusal (\"I can't help")
    assert codes(line(user(), assistant(refusal, weight=0), *row[2:])) == []


def test_an_escape_hides_nothing() -> None:
    sound = line(user(), assistant("Write to stan@canadiens.ca with AKIAIOSFODNN7EXAMPLE."))
    assert codes(sound.replace(b"@", b"\\u0040").replace(b"AKIA", b"\\u0041KIA")) == ["secret", "email"]


def test_tools_out_of_balance_are_findings_of_the_file() -> None:
    tools = [*declared(), {"type": "function", "function": {"name": "parquet_query"}}]
    rows = [line(user(f"Q{i}?"), calling(call()), tools=tools) for i in range(40)]
    report = check(rows)
    messages = [str(finding) for finding in report.warnings]
    assert any("declares 'parquet_query' in 40 rows and never calls it" in message for message in messages)
    assert any("calls a tool in every row" in message for message in messages)
    rows += [line(user("Rare?"), calling(call("parquet_query", "{}")), tools=tools), line(user(), assistant())]
    assert [str(finding) for finding in check(rows).warnings] == [
        "the file: warning: calls 'parquet_query' once of 41: too rare to learn when; add rows that do",
        "the file: warning: calls a tool in 41 of 42 rows: too few without a call to learn when to answer without; "
        "add some",
    ]
    plain = [line(user(f"Plain {i}?"), assistant()) for i in range(5)]
    assert codes(*rows, *plain) == ["tool_imbalance"]


def said(words: list[str]) -> dict[str, Any]:
    return {"messages": [user(" ".join(words)), assistant("Yes.")]}


def varied(words: list[str], changed: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    found = list(words)
    for at in draw.sample(range(len(words)), changed):
        found[at] = f"other{draw.random()}"
    return found


def jaccard(one: list[str], other: list[str]) -> float:
    first, second = ({tuple(words[i : i + 3]) for i in range(len(words) - 2)} for words in (one, other))
    return len(first & second) / len(first | second)


def test_near_duplicates_are_found_and_what_is_different_is_not() -> None:
    missed = wrong = 0
    for seed in range(60):
        words = random.Random(seed).choices(WORDS, k=200)
        near, far = varied(words, 2, seed), varied(words, 30, seed)
        assert jaccard(words, near) > 0.9 > 0.6 > jaccard(words, far)
        table = NearRows(1024)
        assert table.find(said(words), 7) is None
        missed += table.find(said(near), 8, remember=False) != 7
        wrong += table.find(said(far), 9, remember=False) is not None
    assert missed <= 1
    assert wrong == 0


@given(st.integers(0, 120), st.integers(0, 10**6))
def test_the_sketch_estimates_the_share_in_common(changed: int, seed: int) -> None:
    words = random.Random(seed).choices(WORDS, k=300)
    other = varied(words, changed, seed)
    one, two = sketch_of(said(words)), sketch_of(said(other))
    assert one is not None
    assert two is not None
    # Six standard deviations of 64 draws, at most 0.0625 each.
    assert likeness(one, two) == pytest.approx(jaccard(words, other), abs=0.375)
    assert likeness(one, one) == 1


def test_near_duplicates_are_warnings_with_both_lines() -> None:
    words = random.Random(1).choices(WORDS, k=100)
    rows = [line(user(" ".join(w)), assistant()) for w in (words, varied(words, 1, 1), words)]
    report = check(rows, near_duplicates=True)
    assert [(finding.line, finding.code) for finding in report.findings] == [(2, "near_duplicate"), (3, "duplicate")]
    assert "nearly repeats line 1" in report.findings[0].message
    assert report.summary.near_duplicate_rows == 1
    assert check(rows).summary.near_duplicate_rows is None


def test_a_full_table_says_so_and_still_looks_up() -> None:
    table = SeenRows(4)
    assert [table.first(bytes([i] * 32), i) for i in (1, 2, 3, 4)] == [None] * 4
    assert table.full
    assert table.first(bytes([2] * 32), 9) == 2
    assert table.first(bytes([4] * 32), 9) is None


@given(st.lists(st.integers(0, 40), max_size=60))
def test_a_fingerprint_is_seen_first_where_it_was(values: list[int]) -> None:
    table, first = SeenRows(64), dict[int, int]()
    for number, value in enumerate(values, start=1):
        assert table.first(value.to_bytes(8, "big"), number) == first.get(value)
        first.setdefault(value, number)


def test_a_held_out_file_is_checked_and_its_overlap_found() -> None:
    words = random.Random(2).choices(WORDS, k=100)
    training = [line(user(" ".join(words)), assistant()), SOUND[0]]
    own = [
        b"{\n",
        SOUND[0],
        line(user(" ".join(varied(words, 1, 3))), assistant()),
        line(user("What of it?"), assistant("No.")),
    ]
    report = check(training, held_out=own, near_duplicates=True)
    found = [str(finding) for finding in report.findings]
    assert found[0].startswith("held-out line 1: error: is not JSON")
    assert found[1].startswith("held-out line 2: warning: is line 2 of the training file")
    assert found[2].startswith("held-out line 3: warning: nearly repeats line 1 of the training file")
    assert len(found) == 3
    assert report.stats.rows == 2


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ([], "has no rows; write one JSON object a line"),
        ([b"\n", b"  \n"], "has no rows"),
        ([SOUND[0], SOUND[0]], "has no row left to judge by, of 2 that are sound"),
        ([line(user("word " * 9000), assistant())], "has no row left to judge by, of 1 that are sound"),
        ([b"\x1f\x8b\x08"], "is gzip"),
    ],
)
def test_a_held_out_file_that_leaves_nothing_to_judge_by_is_an_error(own: list[bytes], words: str) -> None:
    report = check([SOUND[0], SOUND[1]], held_out=own)
    assert (report.num_errors, report.stats.own_held_out_rows) == (1, 0)
    assert str(report.errors[0]).startswith("held-out ")
    assert words in report.errors[0].message


@given(st.integers(0, 30), st.integers(0, 10**6), st.floats(0.1, 0.5))
def test_no_row_moves_across_and_near_duplicates_never_face_each_other(extra: int, seed: int, fraction: float) -> None:
    draw = random.Random(seed)
    base = [draw.choices(WORDS, k=60) for _ in range(12)]
    rows = [said(words) for words in base] + [said(varied(words, 1, seed)) for words in base]
    more = [said(varied(draw.choice(base), draw.randrange(3), seed + i + 1)) for i in range(extra)]
    every = rows + more
    draw.shuffle(every)
    before, after = split(rows, fraction), split(every, fraction)
    assert not any(row in after.training for row in (*before.heldout, *before.left_out))
    assert not any(row in (*after.heldout, *after.left_out) for row in before.training)
    for row in after.heldout:
        table = NearRows(1024)
        for other in after.training:
            table.find(other, 1)
        assert table.find(row, 0, remember=False) is None
    assert len(every) == len(after.training) + len(after.heldout) + len(after.left_out)


def test_a_near_duplicate_of_a_training_row_is_left_out() -> None:
    base = [random.Random(i).choices(WORDS, k=60) for i in range(40)]
    found = split([said(words) for words in base] + [said(varied(words, 1, 5)) for words in base], 0.3)
    assert len(found.left_out) > 5
    sketches = [sketch_of(row) for row in found.training]
    for row in found.heldout:
        own = sketch_of(row)
        assert own is not None
        assert all(likeness(own, other) < NEAR for other in sketches if other)


def test_strata_are_counted_with_what_the_split_holds_out_of_them() -> None:
    rows = [
        line(*[one for n in range(1 + i % 11) for one in (user(f"What is the {i} of {n}?"), assistant())])
        for i in range(66)
    ] + [line(user(f"Où est le {i} de la liste?"), calling(call()), tool(), assistant()) for i in range(60)]
    summary = check(rows, job=FineTuneJob(held_out_fraction=0.3, seed=1)).summary
    kept = split([json.loads(row) for row in rows], 0.3, 1)
    held_out = [row["messages"] for row in (*kept.heldout, *kept.left_out)]
    asked = [sum(message["role"] == "user" for message in row) for row in held_out]
    called = sum(len(row) == 4 and "tool_calls" in row[1] for row in held_out)
    assert summary.questions == {"1": 66, **{str(n): 6 for n in range(2, 9)}, "9 or more": 18}
    assert summary.held_out_rows == len(held_out) > 20
    assert summary.held_out_strata["questions"]["9 or more"] == sum(count > 8 for count in asked)
    assert summary.held_out_strata["routes"] == {"none": len(held_out) - called, "pinecone_search": called}
    assert summary.held_out_strata["languages"] == {"en": len(held_out) - called, "fr": called}


def test_the_language_of_many_rows_is_told_from_some_all_over_the_file() -> None:
    english, french = (
        [line(user(asked.format(i)), assistant()) for i in range(2500)]
        for asked in ("What is the {} of the list?", "Où est le {} de la liste?")
    )
    assert check(english + french).summary.languages == {"en": 2050, "fr": 250}


def test_the_summary() -> None:
    rows = [
        line(system(), user(), calling(call()), tool(), assistant()),
        line(
            system("Tu es Stanley."), user("Qui est le meilleur pour les Canadiens dans la ligue?"), assistant("Lui.")
        ),
        line(user("Who is the best of the league, and what is he good at?"), assistant("word " * 200)),
    ]
    found = check(rows)
    summary = found.summary
    assert summary.routes == {"none": 2, "pinecone_search": 1}
    assert (summary.system_prompts, summary.rows_without_system_prompt) == (2, 1)
    assert summary.languages == {"en": 2, "fr": 1}
    assert summary.questions == {"1": 3}
    assert summary.histogram == {"1-64": 2, "65-128": 0, "129-256": 0, "257-512": 1}
    assert not found.stats.tokens_are_exact
    assert json.loads(json.dumps(found.to_dict()))["summary"]["routes"]["none"] == 2
