"""Lines of a file of any size: split at line feeds alone, in memory that no line can fill."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

MOST_BYTES = 16 << 20
"""Of a line. Some 400 times what the longest MAX_LENGTH holds: what is longer is no conversation, but a whole file that
was written without line ends."""
_CHUNK_BYTES = 1 << 20


class Stream(Protocol):
    """A file that was opened to read bytes, or the body of an object in S3."""

    def read(self, size: int, /) -> bytes: ...


def lines(stream: Stream) -> Iterator[bytes]:
    """The lines of a stream, with their ends. One that is over MOST_BYTES comes in pieces, as `numbered` knows them."""
    rest = b""
    while chunk := stream.read(_CHUNK_BYTES):
        chunk, start = rest + chunk, 0
        while end := chunk.find(b"\n", start) + 1:
            yield chunk[start:end]
            start = end
        rest = chunk[start:]
        if len(rest) > MOST_BYTES:
            yield rest
            rest = b""
    if rest:
        yield rest


def numbered(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """The lines with their numbers, from 1. Of one in pieces only the first, which is over MOST_BYTES, is given."""
    number, goes_on = 0, False
    for line in lines:
        if goes_on:
            goes_on = not line.endswith(b"\n")
            continue
        number += 1
        goes_on = len(line) > MOST_BYTES and not line.endswith(b"\n")
        yield number, line
