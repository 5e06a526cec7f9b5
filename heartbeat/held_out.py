"""The held-out split: which rows the model is judged on, and never trained on.

A row's side is decided by its content alone, so adding rows moves none from one side to the other, in whatever order
they stand. Near-duplicates may then fall on different sides, and no rule can put them together and still move none: two
rows that are apart when a third comes between them would have to meet. So a row of the held-out side that nearly
repeats one of the training side is left out altogether. Every kind of row (its tools, its language) is held out at the
same rate; shares that are exact would take knowledge of other rows, and move some when they change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from heartbeat import conversation
from heartbeat.similar import NearRows

R = TypeVar("R", bound=Mapping[str, Any])


@dataclass(frozen=True, kw_only=True)
class Split(Generic[R]):
    """Rows by side, each in the given order."""

    training: list[R]
    heldout: list[R]
    left_out: list[R]
    """Of the held-out side, but nearly a row of the training side: neither trained on nor judged by."""


def is_held_out(row: Mapping[str, Any], fraction: float, seed: int = 0) -> bool:
    """Whether a row is kept from training: by what it says, whatever its extra keys, call ids or tools."""
    return is_held_out_by(conversation.fingerprint(row), fraction, seed)


def is_held_out_by(fingerprint: bytes, fraction: float, seed: int) -> bool:
    """The same, of the row with this fingerprint."""
    digest = hashlib.sha256(f"{seed}:".encode() + fingerprint).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def split(rows: Iterable[R], fraction: float, seed: int = 0) -> Split[R]:
    """About `fraction` of the rows are held out. With few rows either side may be empty."""
    training: list[R] = []
    candidates: list[R] = []
    for row in rows:
        (candidates if is_held_out(row, fraction, seed) else training).append(row)
    return apart(training, candidates)


def apart(training: list[R], heldout: Iterable[R]) -> Split[R]:
    """`heldout` without what nearly repeats a row of `training`."""
    near = NearRows(1 << max(10, len(training).bit_length()))
    for number, row in enumerate(training, start=1):
        near.find(row, number)
    kept: list[R] = []
    left_out: list[R] = []
    for row in heldout:
        (kept if near.find(row, 0, remember=False) is None else left_out).append(row)
    return Split(training=training, heldout=kept, left_out=left_out)
