"""Reading lines: alike for a file and for an object in S3, in memory that one line cannot fill."""

from __future__ import annotations

import io
import resource
import sys
from collections.abc import Iterator

import pytest
from botocore.response import StreamingBody
from hypothesis import given
from hypothesis import strategies as st

from heartbeat import json_lines
from heartbeat.dataset import DatasetError, check, read
from heartbeat.repair import repair
from tests.unit.test_dataset import SOUND

MIB = 1 << 20


class Endless:
    """A stream of so many bytes: what it begins with, then one byte again and again."""

    def __init__(self, begin: bytes, size: int, fill: bytes = b"x") -> None:
        self._begin, self._left, self._fill = begin, size, fill

    def read(self, size: int, /) -> bytes:
        found = (self._begin + self._fill * size)[: min(size, self._left)]
        self._begin = self._begin[len(found) :]
        self._left -= len(found)
        return found


@given(st.lists(st.sampled_from([b"a", b"\n", b"\r", b"\r\n", b"\x0b", b"\x85", b"\xe2\x80\xa8"])))
def test_lines_end_at_line_feeds_alone(parts: list[bytes]) -> None:
    content = b"".join(parts)
    assert list(json_lines.lines(io.BytesIO(content))) == list(io.BytesIO(content))


def test_a_line_goes_on_from_chunk_to_chunk() -> None:
    content = b"\n".join([b"a" * (3 * MIB), b"", b"b" * MIB, b"c"])
    assert list(json_lines.lines(io.BytesIO(content))) == content.splitlines(keepends=True)


def test_an_object_in_s3_is_read_as_a_file_is() -> None:
    """botocore's own iter_lines ends lines at carriage returns too: the trainer would meet another file."""
    content = b"\r".join(row.strip() for row in SOUND[:3])
    body = check(json_lines.lines(StreamingBody(io.BytesIO(content), len(content))))
    file = check(json_lines.lines(io.BytesIO(content)))
    assert body == file
    assert (body.ok, body.stats.rows) == (False, 1)
    with pytest.raises(DatasetError):
        list(read(json_lines.lines(io.BytesIO(content))))


def test_a_line_without_end_is_an_error_and_its_rest_is_skipped() -> None:
    size = 200 * MIB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = check(json_lines.lines(Endless(SOUND[0] + b"{", size)))
    assert [(finding.line, finding.code) for finding in report.findings] == [(2, "line_too_long")]
    assert "is over 16 MiB" in report.errors[0].message
    assert (report.stats.bytes, report.stats.rows, report.stats.valid_rows) == (size, 2, 1)
    (kept, dropped) = repair(json_lines.lines(Endless(SOUND[0] + b"{", size)))
    assert (kept.text, dropped.text) == (SOUND[0], None)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 100 * (MIB if sys.platform == "darwin" else 1024)


def test_a_file_that_is_one_list_says_how_to_make_lines_of_it() -> None:
    report = check(json_lines.lines(Endless(b"[" + SOUND[0].strip() + b", ", 40 * MIB)))
    assert [finding.code for finding in report.findings] == ["other_format"]
    assert "jq -c '.[]' FILE > FILE.jsonl" in report.errors[0].message


def test_what_follows_a_line_in_pieces_has_its_own_number() -> None:
    def pieces() -> Iterator[bytes]:
        yield b"x" * (json_lines.MOST_BYTES + 1)
        yield b"x"
        yield b"x\n"
        yield SOUND[0]
        yield b"x" * json_lines.MOST_BYTES + b"\n"
        yield SOUND[1]

    found = [(number, line[:1]) for number, line in json_lines.numbered(pieces())]
    assert found == [(1, b"x"), (2, SOUND[0][:1]), (3, b"x"), (4, SOUND[1][:1])]
