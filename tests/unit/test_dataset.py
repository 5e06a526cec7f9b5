"""The dataset's rules, its statistics and its held-out split."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartbeat.dataset import DatasetError, DatasetStats, check, read
from heartbeat.held_out import is_held_out, split
from heartbeat.job import FineTuneJob

TOOLS = [{"type": "function", "function": {"name": "pinecone_search", "parameters": {"type": "object"}}}]


def line(*messages: dict[str, Any], **row: Any) -> bytes:
    return json.dumps({"messages": list(messages), **row}).encode() + b"\n"


def call(name: str = "pinecone_search", arguments: Any = '{"query": "Béliveau"}', **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **more}


def system(text: str = "You are Stanley.") -> dict[str, Any]:
    return {"role": "system", "content": text}


def user(text: str = "Who leads the Habs in goals?") -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(content: Any = "Let me look that up.", **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def calling(*calls: dict[str, Any]) -> dict[str, Any]:
    return assistant(None, tool_calls=list(calls))


def tool(content: Any = "[]", **more: Any) -> dict[str, Any]:
    return {"role": "tool", "content": content, **more}


SOUND = [
    line(system(), user(), assistant()),
    line(user(), assistant()),
    line(user(), assistant(), user("And last year?"), assistant("The same.")),
    line(system(), user(), calling(call()), tool(), assistant(), tools=TOOLS),
    line(user(), calling(call(arguments={"query": "x"}))),  # ends with the call: routing is what it teaches
    line(
        user(),
        calling(call(id="a"), call(id="b")),
        tool(tool_call_id="b"),
        tool(tool_call_id="a"),
        assistant(),
    ),
    line(user(), calling(call()), tool(""), calling(call()), tool("none"), assistant()),
    line(user(), assistant(tool_calls=None, weight=0), user(), assistant("Yes.", weight=1)),
    line({**user(), "name": "fan"}, assistant(), source="forum", tools=None),
    # In the card's format ({"messages": [{"role": "system", …}, {"role": "user", …}, {"role": "assistant", …}]}); its
    # own text is not available to us. With a routed call and its result, as Stanley's rows have them.
    json.dumps(
        {
            "messages": [
                {"role": "system", "content": "You are Stanley, a Montreal Canadiens analyst."},
                {"role": "user", "content": "What is Suzuki's face-off percentage at home?"},
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [
                        {
                            "id": "call_1",
                            "type": "function",
                            "function": {"name": "parquet_query", "arguments": '{"player": "Nick Suzuki"}'},
                        }
                    ],
                },
                {
                    "role": "tool",
                    "tool_call_id": "call_1",
                    "name": "parquet_query",
                    "content": '{"pct": 51.2}',
                },
                {"role": "assistant", "content": "He wins 51.2% of them at the Bell Centre."},
            ]
        }
    ).encode(),
]


@pytest.mark.parametrize("text", SOUND)
def test_a_sound_row_has_no_findings(text: bytes) -> None:
    report = check([text])
    assert report.ok
    assert report.findings == ()
    assert next(read([text]))["messages"]


BAD = [
    (b"{x}", "not_json", "is not JSON: Expecting property name"),
    (b'{"messages": ' + b"1" * 5000 + b"}", "not_json", "has a number of over 4300 digits; write it as a text"),
    (b'{"messages": NaN}', "not_json", "NaN is not a JSON number"),
    (b"[" * 100_000, "not_json", "nested too deeply"),
    (b"[" * 70 + b"]" * 70, "not_json", "nested over 64 levels deep"),
    (b'[{"role": "user"}]', "not_an_object", "is a list; write one object a line"),
    (b"null", "not_an_object", "is null"),
    ("é".encode("latin-1"), "encoding", "byte 0xe9 at 0 is not UTF-8; save the file as UTF-8"),
    (b'{"messages": "\\ud800"}', "encoding", "half a surrogate pair"),
    (b"\xef\xbb\xbf" + SOUND[0], "encoding", "byte-order mark; save the file as UTF-8 without BOM"),
    (
        b'{"messages": [\n',
        "not_json",
        "it ends before the object does; write the whole object on one line",
    ),
    (SOUND[0].decode().encode("utf-16"), "other_format", "is UTF-16; save the file as UTF-8"),
    (SOUND[0].decode().encode("utf-16-le"), "other_format", "is UTF-16; save the file as UTF-8"),
    (b"\x1f\x8b\x08", "other_format", "is gzip; upload the file unpacked"),
    (b"[\n", "other_format", "is a JSON list of rows; write one object a line, as `jq"),
    (b"[" + SOUND[0], "other_format", "is a JSON list of rows; write one object a line, as `jq"),
    (b"[" + SOUND[0].strip() + b"]", "not_an_object", "is a JSON list of rows; write one object a line, as `jq"),
    (b"{}", "no_messages", 'has no messages; write {"messages"'),
    (b'{"message": []}', "no_messages", "has no messages; rename 'message'"),
    (b'{"messages": []}', "no_messages", "has an empty list as messages"),
    (b'{"conversations": []}', "no_messages", "ShareGPT's form"),
    (line("Hi"), "bad_message", "messages[0] is a text; write an object"),  # type: ignore[arg-type]
    (line({"role": "human", "content": "x"}), "bad_role", "has role \"human\"; write 'user'"),
    (line({"role": "Assistant", "content": "x"}), "bad_role", "has role \"Assistant\"; write 'assistant'"),
    (line({"content": "x"}), "bad_role", "messages[0] has no role; the roles are"),
    (b'{"messages": null}', "no_messages", "has null as messages; write a list"),
    (line(user(), calling(call()), tool(None), assistant()), "empty_content", 'write "" where the tool had nothing'),
    (line({"role": [], "content": "x"}), "bad_role", "the roles are system, user, assistant, tool"),
    (line(system()), "no_assistant", "has no assistant turn"),
    (line(user()), "no_assistant", "has no assistant turn"),
    (line(user(), assistant(weight=0)), "no_assistant", "has weight 0 on every assistant turn"),
    (line(user(), system(), assistant()), "bad_order", "messages[1] has role system where assistant must"),
    (
        line(assistant(), user()),
        "bad_order",
        "messages[0] has role assistant where system or user must",
    ),
    (line(user(), user(), assistant()), "bad_order", "messages[1] has role user where assistant must come"),
    (
        line(user(), assistant(), assistant()),
        "bad_order",
        "messages[2] has role assistant where user must come",
    ),
    (line(user("  "), assistant()), "empty_content", "messages[0] (user) is empty"),
    (line(user(), assistant(None)), "empty_content", "only an assistant that calls tools may leave it out"),
    (line(user(), assistant(None, function_call={})), "bad_content", "the old form; write tool_calls"),
    (line(user(), assistant([{"text": "x"}])), "bad_content", "has a list as content; write it as one text"),
    (
        line(user(), calling(call("pinecone")), tools=TOOLS),
        "undeclared_tool",
        "did you mean 'pinecone_search'?",
    ),
    (line(user(), calling(call()), tools=[]), "undeclared_tool", "add it to tools or drop the call"),
    (line(user(), assistant(), tools=[{"name": "x"}]), "bad_tools", "tools[0] names no function; write"),
    (line(user(), assistant(), tools={}), "bad_tools", "tools is an empty object; write a list"),
    (line(user(), calling(call(arguments="{"))), "bad_arguments", "not a JSON object; write {} for none"),
    (line(user(), calling(call(arguments="[1]"))), "bad_arguments", "not a JSON object"),
    (line(user(), calling(call(arguments=None))), "bad_arguments", "has arguments null"),
    (line(user(), calling(call(arguments='{"a": "\\ud800"}'))), "bad_arguments", "not a JSON object"),
    (line(user(), calling({"name": "x"})), "bad_tool_call", "names no function; write"),
    (line(user(), assistant(None, tool_calls={"a": 1})), "bad_tool_call", "tool_calls is an object"),
    (line({**user(), "tool_calls": [call()]}, assistant()), "bad_tool_call", "has role user and tool_calls"),
    (line(user(), tool(), assistant()), "tool_result_without_call", "no call waits for one"),
    (
        line(user(), calling(call(id="a")), tool(tool_call_id="b")),
        "tool_result_without_call",
        'answers call "b"; the calls that wait are ["a"]',
    ),
    (line(user(), calling(call()), assistant()), "tool_call_without_result", "1 tool call(s) before it"),
    (line(user(), assistant(weight=0.5)), "bad_weight", "write 1 to train on it or 0 not to"),
    (line(user(), assistant(weight=True)), "bad_weight", "has weight true"),
]


@pytest.mark.parametrize(("text", "code", "words"), BAD, ids=[f"{i}-{bad[1]}" for i, bad in enumerate(BAD)])
def test_every_error_names_line_fault_and_fix(text: bytes, code: str, words: str) -> None:
    report = check([text])
    assert not report.ok
    assert report.errors[0].code == code
    assert report.errors[0].line == 1
    assert words in report.errors[0].message
    assert str(report.errors[0]).startswith("line 1: error: ")


def test_an_error_in_one_row_is_found_on_its_line_and_the_others_count() -> None:
    report = check([SOUND[0], b"\n", b"{\n", SOUND[1]])
    assert [(finding.line, finding.code) for finding in report.findings] == [(3, "not_json")]
    assert (report.stats.rows, report.stats.valid_rows) == (3, 2)
    with pytest.raises(DatasetError, match=r"line 3: is not JSON"):
        list(read([SOUND[0], b"\n", b"{\n"]))


@pytest.mark.parametrize("lines", [[], [b""], [b"\n", b"  \r\n"]])
def test_an_empty_file_is_an_error_of_the_file(lines: list[bytes]) -> None:
    report = check(lines)
    assert str(report.errors[0]) == "the file: error: has no rows; write one JSON object a line"


def test_duplicates_are_told_whatever_their_keys_order_and_ids() -> None:
    first = line(user(), calling(call(arguments='{"a": 1, "b": 2}', id="x")), tool(tool_call_id="x"), assistant())
    again = line(user(), calling(call(arguments={"b": 2, "a": 1}, id="y")), tool(), assistant(), note=1)
    report = check([first, SOUND[0], again])
    assert report.ok
    assert [str(finding) for finding in report.warnings] == [
        "line 3: warning: says the same as line 1; drop one of them"
    ]
    assert report.stats.duplicate_rows == 1


def test_a_row_over_max_length_is_a_warning_and_its_tokens_are_kept_apart() -> None:
    long = line(user("word " * 400), assistant())
    report = check([long, SOUND[0]], job=FineTuneJob(max_length=256))
    assert [finding.code for finding in report.warnings] == ["over_long"]
    assert "over MAX_LENGTH=256" in report.warnings[0].message
    stats = report.stats
    assert (stats.over_long_rows, stats.trainable_rows) == (1, 1)
    assert 0 < stats.trainable_tokens < stats.over_long_tokens < stats.tokens
    assert check([long, SOUND[0]], job=FineTuneJob(max_length=4096)).findings == ()


def test_a_name_that_the_endpoints_parser_cannot_read_is_a_warning() -> None:
    rows = [
        line(user(), calling(call("web-search", "{}"))),
        line(user(), calling(call("f", '{"from": 1}'))),
    ]
    report = check(rows)
    assert report.ok
    assert [finding.code for finding in report.warnings] == ["unservable_call"] * 2
    assert "'web-search' in a call of 'web-search' is no name that" in report.warnings[0].message


def test_an_unanswered_turn_is_a_warning() -> None:
    report = check([line(user(), assistant(), user("Still there?"))])
    assert [finding.code for finding in report.warnings] == ["unanswered"]


def test_findings_are_bounded_and_all_are_counted() -> None:
    report = check([SOUND[0]] * 500 + [b"{\n"] * 300, max_findings=7)
    assert (len(report.errors), len(report.warnings)) == (7, 7)
    assert report.counts == {"duplicate": 499, "not_json": 300}
    assert (report.num_errors, report.num_warnings) == (300, 499)
    assert report.describe(limit=1).endswith("; and 299 more")


def test_statistics() -> None:
    text = [SOUND[0], SOUND[3], b"oops\n"]
    stats = check(text).stats
    assert (stats.rows, stats.valid_rows, stats.turns, stats.assistant_turns) == (3, 2, 8, 3)
    assert (stats.tool_rows, stats.tools) == (1, {"pinecone_search": 1})
    assert stats.bytes == len(b"".join(text))
    assert stats.sha256 == hashlib.sha256(b"".join(text)).hexdigest()
    assert stats.characters == 2 * len("You are Stanley.Who leads the Habs in goals?Let me look that up.") + 2
    assert 0 < stats.supervised_tokens < stats.tokens
    assert DatasetStats.from_dict(json.loads(json.dumps(stats.to_dict()))) == stats


def test_old_statistics_are_refused_by_name() -> None:
    values = check(SOUND).stats.to_dict()
    del values["sha256"]
    with pytest.raises(ValueError, match="lack sha256; check the dataset again"):
        DatasetStats.from_dict(values)


def test_no_supervised_tokens_where_the_weight_is_zero() -> None:
    more = line(user(), assistant(), user("?"), assistant("A long answer that is not learned", weight=0))
    base = check([line(user(), assistant())]).stats
    assert check([more]).stats.supervised_tokens == base.supervised_tokens


def rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"messages": [user(f"Question {i}?"), assistant(f"Answer {i}.")]} for i in range(start, start + count)]


def test_the_split_holds_out_about_the_fraction_and_loses_nothing() -> None:
    every = rows(2000)
    found = split(every, 0.1, seed=0)
    assert len(found.training) + len(found.heldout) + len(found.left_out) == 2000
    assert 150 < len(found.heldout) < 250
    assert split(every, 0.0).training == every


def test_the_split_depends_on_the_seed() -> None:
    assert split(rows(200), 0.5, seed=1) != split(rows(200), 0.5, seed=2)


@given(st.integers(0, 50), st.integers(0, 50), st.floats(0, 0.5), st.integers(0, 3))
def test_adding_rows_moves_none_across(before: int, added: int, fraction: float, seed: int) -> None:
    found = split(rows(before), fraction, seed)
    more = split(rows(added, start=1000) + rows(before), fraction, seed)
    assert [row for row in more.training if row in rows(before)] == found.training
    assert [row for row in (*more.heldout, *more.left_out) if row in rows(before)] == found.heldout


def test_extra_keys_move_no_row() -> None:
    for row in rows(100):
        assert is_held_out(row, 0.3) == is_held_out({**row, "id": 7, "tools": TOOLS}, 0.3)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["system", "user", "assistant", "tool"]) | JSON,
        "content": st.text(max_size=5) | JSON,
        "tool_calls": JSON
        | st.lists(
            st.builds(call, st.sampled_from(["pinecone_search", "f-g"]) | st.text(max_size=3), st.text() | JSON),
            max_size=2,
        ),
        "tool_call_id": JSON,
        "weight": st.sampled_from([0, 1]) | JSON,
    },
)
LIKELY = st.fixed_dictionaries({"messages": st.lists(MESSAGES, max_size=5)}, optional={"tools": JSON}).map(
    lambda row: json.dumps(row).encode()
)


@given(st.lists(st.one_of(st.binary(max_size=40), LIKELY, st.sampled_from(SOUND)), max_size=6))
def test_whatever_the_bytes_nothing_raises_and_the_counts_add_up(lines: list[bytes]) -> None:
    report = check(lines, max_findings=2)
    stats = report.stats
    assert sum(report.counts.values()) == report.num_errors + report.num_warnings
    assert len(report.findings) <= min(4, report.num_errors + report.num_warnings)
    assert 0 <= stats.over_long_rows <= stats.valid_rows <= stats.rows <= len(lines)
    assert stats.supervised_tokens <= stats.tokens
    assert stats.assistant_turns <= stats.turns
    assert stats.bytes == sum(map(len, lines))
    assert report.ok == (report.num_errors == 0)
    json.dumps(report.to_dict())
    if report.ok:
        assert len(list(read(lines))) == stats.rows == stats.valid_rows
