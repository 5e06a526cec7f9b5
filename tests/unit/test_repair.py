"""The repaired copy: sound rows as they were, the others put right or dropped, and every change said."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartbeat.dataset import check
from heartbeat.repair import repair
from tests.unit.test_dataset import BAD, LIKELY, SOUND, TOOLS, assistant, call, calling, line, user


def test_sound_rows_are_written_as_they_were_and_blank_lines_are_not() -> None:
    done = list(repair([SOUND[0], b"\n", SOUND[1].rstrip() + b"\r\n", SOUND[2].rstrip()]))
    assert [row.text for row in done] == [SOUND[0], SOUND[1], SOUND[2]]
    assert [row.changes for row in done] == [()] * 3


HUMAN = b'{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}], "id": 7}'


@pytest.mark.parametrize(
    ("bad", "change"),
    [
        (b"\xef\xbb\xbf" + SOUND[0], "took away the byte-order mark"),
        (line({"role": "human", "content": "x"}, assistant()), "wrote role 'human' as 'user'"),
        (line({"role": "User ", "content": "x"}, assistant()), "wrote role 'User ' as 'user'"),
        (line(user(), calling(call(arguments=""))), "wrote {} for a call's empty arguments"),
        (line(user(), calling(call(arguments='{"a": 1, "a": 2}'))), "kept the last of keys that were there twice in a"),
        (HUMAN, "wrote conversations (ShareGPT's form) as messages"),
        (line(user(), assistant(weight=True)), "wrote weight as a number"),
        (line(user(), assistant([{"type": "text", "text": "x"}])), "joined the parts of a content"),
        (line(user(), assistant(None, function_call={"name": "f", "arguments": "{}"})), "wrote function_call as"),
        (line(user(), assistant(), user()), "dropped the last message, which nobody answers"),
        (SOUND[0].replace(b'"role": "user"', b'"role": "x", "role": "user"'), "kept the last of keys"),
        (json.dumps(json.loads(SOUND[0]) | {"x": "é"}, ensure_ascii=False).encode("cp1252"), "read it as Windows-1252"),
    ],
)
def test_what_needs_no_guess_is_put_right_and_said(bad: bytes, change: str) -> None:
    assert check([bad]).findings
    (done,) = repair([bad])
    assert done.text is not None
    assert any(said.startswith(change) for said in done.changes)
    assert check([done.text]).findings == ()


def test_a_row_that_was_written_in_two_encodings_is_dropped_and_not_written_as_nonsense() -> None:
    mixed = line(user("é"), assistant("x")).replace(b"\\u00e9", "Béliveau ".encode() + b"caf\xe9")
    half = b'{"messages": [{"role": "user", "content": "\\ud800"}, {"role": "assistant", "content": "x"}]}\n'
    for bad, why in (
        (mixed, "byte 0xe9 at 56 is not UTF-8, as the rest is"),
        (half, "has half a surrogate"),
    ):
        (done,) = repair([bad])
        assert done.text is None
        assert len(done.changes) == 1
        assert done.changes[0].startswith(f"dropped it: {why}")


def test_files_that_were_joined_lose_every_byte_order_mark() -> None:
    joined = [b"\xef\xbb\xbf" + row for row in (SOUND[0], SOUND[1])]
    assert [(f.line, f.code) for f in check(joined).errors] == [(1, "encoding"), (2, "encoding")]
    assert [row.text for row in repair(joined)] == [SOUND[0], SOUND[1]]


def test_rows_that_differ_in_tools_or_in_what_is_learned_are_all_kept() -> None:
    said = [user(), assistant("One."), user(), assistant("Two.")]
    rows = [
        line(*said),
        line(*said, tools=TOOLS),
        line(user(), assistant("One.", weight=0), *said[2:]),
        line(user(), assistant("One.", weight=1), *said[2:]),
    ]
    assert [row.text is not None for row in repair(rows)] == [True, True, True, False]


def test_what_cannot_be_put_right_is_dropped_with_the_reason_and_so_are_duplicates() -> None:
    done = list(repair([b"{\n", SOUND[0], line(user("  "), assistant()), SOUND[0]]))
    assert [row.text for row in done] == [None, SOUND[0], None, None]
    assert done[2].changes[0].startswith("dropped it: messages[0] (user) is empty")
    assert done[3].changes == ("dropped it: it says the same as line 2",)


@given(st.lists(st.one_of(st.binary(max_size=40), LIKELY, st.sampled_from([*SOUND, *(bad for bad, *_ in BAD)]))))
def test_whatever_the_bytes_the_copy_has_no_error_and_repairing_it_changes_nothing(lines: list[bytes]) -> None:
    copy = [row.text for row in repair(lines) if row.text is not None]
    if copy:
        assert check(copy).num_errors == 0
    again = list(repair(copy))
    assert [row.text for row in again] == copy
    assert not any(row.changes for row in again)
