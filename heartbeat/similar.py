"""Rows that are the same, or nearly, in memory that does not grow with the dataset.

Both tables have a fixed number of places and are filled when made, so the first row costs as much memory as the last.
Nothing here depends on chance: the same rows in the same order give the same findings.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Mapping
from operator import eq
from typing import Any
from zlib import crc32

from heartbeat.conversation import arguments, tool_calls

_WORD = re.compile(r"\w+")
_BINS = 64
_BAND = 4
_SPREAD = 0x9E3779B1
"""Odd, about 2**32 / golden ratio (Knuth, Fibonacci hashing): spreads CRC-32 over the bins."""
NEAR = 0.8
"""Share of three-word sequences in common (Jaccard) from which two rows count as near-duplicates."""


class SeenRows:
    """Where a fingerprint was seen first. 12 bytes a place; at most three quarters of them are used."""

    def __init__(self, places: int = 1 << 21) -> None:
        """`places` is a power of two. The default remembers 1.5 million rows in 24 MiB."""
        self._mask = places - 1
        self._keys = array("Q", [0]) * places
        self._lines = array("I", [0]) * places
        self._room = places * 3 // 4

    @property
    def full(self) -> bool:
        """Whether further rows are only looked up, not remembered."""
        return self._room <= 0

    def first(self, fingerprint: bytes, line: int) -> int | None:
        """The line that this fingerprint was seen at first; None, and it is remembered at `line`, if it is new.

        Two rows in a million million have the same 64 bits of fingerprint.
        """
        key = int.from_bytes(fingerprint[:8], "little") or 1  # 0 marks an empty place
        keys, mask = self._keys, self._mask
        at = key & mask
        while keys[at]:
            if keys[at] == key:
                return self._lines[at]
            at = (at + 1) & mask
        if self._room > 0 and line:
            self._room -= 1
            keys[at], self._lines[at] = key, line
        return None


class NearRows:
    """Finds an earlier row that shares NEAR of its three-word sequences, by MinHash.

    A row's sketch is the least hash in each of 64 bins (one-permutation MinHash: Li, Owen and Zhang 2012), one byte
    each (b-bit MinHash: Li and König 2010); 16 bands of 4 find candidates (LSH: Indyk and Motwani 1998). Of pairs that
    share 80% the bands find over 99%, of those that share 50% two thirds, which the sketches then tell apart: the share
    is known to 5 points (one standard deviation) where a row has hundreds of words. While few of the places are used
    that is; later rows take the places of earlier ones, and at the full number of rows some 90% are found.
    """

    def __init__(self, rows: int = 1 << 20) -> None:
        """`rows` is a power of two. The default remembers a million rows in 132 MiB."""
        self._rows = rows
        self._mask = rows * _BINS // _BAND - 1
        self._sketches = bytearray(b"\1") * (rows * _BINS)
        self._lines = array("I", [0]) * rows
        self._bands = array("I", [0]) * (self._mask + 1)
        self._used = 0

    @property
    def full(self) -> bool:
        """Whether further rows are only compared with the first, not remembered."""
        return self._used >= self._rows

    def find(self, row: Mapping[str, Any], line: int, *, remember: bool = True) -> int | None:
        """The line of an earlier row that is nearly this one, None without one. Then remembers it as at `line`."""
        sketch = sketch_of(row)
        if sketch is None:
            return None
        bands, used = self._bands, self._used
        keep = remember and not self.full
        found = None
        tried = set()
        for start in range(0, _BINS, _BAND):
            part = sketch[start : start + _BAND]
            if part == _EMPTY_BAND:
                continue
            place = (crc32(part, start) * _SPREAD >> 4) & self._mask
            other = bands[place]
            if found is None and other and other not in tried:
                tried.add(other)
                if likeness(sketch, self._sketch(other - 1)) >= NEAR:
                    found = self._lines[other - 1]
            if keep:
                bands[place] = used + 1
        if keep:
            self._sketches[used * _BINS : (used + 1) * _BINS] = sketch
            self._lines[used] = line
            self._used += 1
        return found

    def _sketch(self, index: int) -> bytes:
        return bytes(self._sketches[index * _BINS : (index + 1) * _BINS])


_EMPTY_BAND = bytes(_BAND)


def sketch_of(row: Mapping[str, Any]) -> bytes | None:
    """MinHash of what user and assistant say: system prompt, tools and results are alike in many rows."""
    said = []
    for message in row["messages"]:
        if message["role"] in ("user", "assistant"):
            said.append(message.get("content") or "")
            said += [f"{call['function']['name']} {arguments(call)}" for call in tool_calls(message)]
    words = [word.encode() for word in _WORD.findall(" ".join(said).lower())]
    if not words:
        return None
    sequences = zip(words, words[1:], words[2:], strict=False) if len(words) > 2 else [(word,) for word in words]
    hashes = {crc32(b" ".join(sequence)) * _SPREAD & 0xFFFFFFFF for sequence in sequences}
    # Later entries replace earlier ones: what stays is the least of each bin.
    least = {value & (_BINS - 1): value for value in sorted(hashes, reverse=True)}
    sketch = bytearray(_BINS)
    for place, value in least.items():
        sketch[place] = (value >> 6 & 0xFF) or 1  # 0 marks an empty bin
    return bytes(sketch)


def likeness(one: bytes, other: bytes) -> float:
    """Estimated share of sequences in common, 0 to 1."""
    same = sum(map(eq, one, other))
    empty = sum(not a and not b for a, b in zip(one, other, strict=True)) if 0 in one else 0
    return (same - empty) / (_BINS - empty) if empty < _BINS else 0.0
