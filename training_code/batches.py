"""What a step computes: documents packed into rows, rows dealt to GPUs, rows grouped into micro-batches.

packed = PackedDataset(data.training, max_length=4096, seed=0)
rows = packed.rows_of_step(step, num_rows=64)  # the whole step, the same on every rank
tokens = num_supervised(rows)  # what every rank divides its loss by
mine = micro_batches(share_of(rows, rank, world_size), batch_size=2)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from heartbeat.packing import pack
from training_code.tokenizer import Encoded

T = TypeVar("T")

IGNORED = -100
"""The target of a token whose next one is not learned; cross_entropy's own ignore_index."""

_PADDING = 0  # An id that every vocabulary has. Padding is a document of its own, which no other attends to.


@dataclass(frozen=True)
class PackedRow:
    """Whole documents that lie end to end in one row, at most MAX_LENGTH tokens together."""

    documents: tuple[Encoded, ...]

    @property
    def num_tokens(self) -> int:
        return sum(len(document.ids) for document in self.documents)

    @property
    def num_supervised(self) -> int:
        return sum(document.num_supervised for document in self.documents)


@dataclass(frozen=True, kw_only=True, eq=False)
class MicroBatch:
    """Rows laid end to end. Attention, positions and targets end where a document does, so rows leave no trace."""

    ids: Tensor
    """(tokens,), int64"""
    targets: Tensor
    """(tokens,), int64: the next token's id where it is learned and in the same document, else IGNORED."""
    lengths: tuple[int, ...]
    """Tokens of each document in order, padding included; their sum is `ids`' length."""
    num_tokens: int
    """Without padding."""
    num_supervised: int
    """Targets that are not IGNORED."""

    def to(self, device: torch.device) -> MicroBatch:
        return replace(self, ids=self.ids.to(device), targets=self.targets.to(device))

    def padded_to(self, length: int) -> MicroBatch:
        """With a document of padding, without targets, that brings `ids` to `length` tokens.

        Raises ValueError where `ids` is longer already.
        """
        missing = length - self.ids.shape[0]
        if missing < 0:
            raise ValueError(f"a micro-batch of {self.ids.shape[0]} tokens cannot be padded to {length}")
        if missing == 0:
            return self
        return replace(
            self,
            ids=functional.pad(self.ids, (0, missing), value=_PADDING),
            targets=functional.pad(self.targets, (0, missing), value=IGNORED),
            lengths=(*self.lengths, missing),
        )


class PackedDataset:
    """Documents as packed rows: passes over all of them, each packed anew under a seed of its own.

    Every pass has the same number of rows, since that depends on the documents' lengths alone. What a step sees
    therefore follows from its number: a resumed run, on any number of GPUs, goes on with the same rows.
    """

    def __init__(self, documents: Sequence[Encoded], *, max_length: int, seed: int) -> None:
        """Raises ValueError for a document that is longer than `max_length` tokens, or empty."""
        self._documents = documents
        self._lengths = [len(document.ids) for document in documents]
        self._max_length = max_length
        self._seed = seed
        self._packed = (0, self._pack(0))
        self.num_rows = len(self._packed[1])
        """Of a pass."""
        self.num_tokens = sum(self._lengths)
        """Of a pass."""

    @property
    def fill_rate(self) -> float:
        """Share of the rows' MAX_LENGTH that holds tokens."""
        return self.num_tokens / (self.num_rows * self._max_length) if self.num_rows else 0.0

    def rows_of_pass(self, number: int) -> list[PackedRow]:
        """Rows that hold every document once. Passes count from 0."""
        return [self._row(indices) for indices in self._indices(number)]

    def rows_of_step(self, step: int, *, num_rows: int) -> list[PackedRow]:
        """The next `num_rows` rows after those of all steps before, of all GPUs together. Steps count from 0.

        Passes follow each other without a gap: where one ends within the step, the next begins. Raises ValueError
        where there is no document.
        """
        if not self._documents:
            raise ValueError("no document to make the rows of a step from")
        first = step * num_rows
        places = (divmod(index, self.num_rows) for index in range(first, first + num_rows))
        return [self._row(self._indices(number)[row]) for number, row in places]

    def _row(self, indices: Sequence[int]) -> PackedRow:
        return PackedRow(tuple(self._documents[index] for index in indices))

    def _indices(self, number: int) -> list[list[int]]:
        # Steps go forward, so the pass that was packed last is the one that is asked for next.
        if self._packed[0] != number:
            self._packed = (number, self._pack(number))
        return self._packed[1]

    def _pack(self, number: int) -> list[list[int]]:
        return pack(self._lengths, self._max_length, seed=f"{self._seed}:{number}")


def share_of(rows: Sequence[T], rank: int, world_size: int) -> list[T]:
    """The rows that are one rank's: every `world_size`th. Empty for the last ranks where there are too few."""
    return list(rows[rank::world_size])


def micro_batches(rows: Sequence[PackedRow], batch_size: int) -> list[MicroBatch]:
    """All rows, `batch_size` to a micro-batch; the last has what is left."""
    return [_micro_batch(rows[start : start + batch_size]) for start in range(0, len(rows), batch_size)]


def heldout_micro_batches(
    documents: Sequence[Encoded], *, batch_size: int, max_length: int, rank: int = 0, world_size: int = 1
) -> list[MicroBatch]:
    """One rank's part of the held-out documents, always in the same order; all ranks' together hold each once."""
    rows = PackedDataset(documents, max_length=max_length, seed=0).rows_of_pass(0)
    return micro_batches(share_of(rows, rank, world_size), batch_size)


def num_supervised(parts: Iterable[PackedRow | MicroBatch]) -> int:
    """Tokens that the loss is taken on: of a step's rows, or of a rank's micro-batches."""
    return sum(part.num_supervised for part in parts)


def _micro_batch(rows: Sequence[PackedRow]) -> MicroBatch:
    documents = [document for row in rows for document in row.documents]
    lengths = tuple(len(document.ids) for document in documents)
    ids = torch.tensor(list(chain.from_iterable(d.ids for d in documents)), dtype=torch.int64)
    learned = torch.tensor(list(chain.from_iterable(d.supervised for d in documents)), dtype=torch.bool)
    # Nothing comes before a document's first token to predict it from.
    learned[list(accumulate(lengths[:-1], initial=0))] = False
    targets = torch.full_like(ids, IGNORED)
    targets[:-1] = ids[1:].where(learned[1:], IGNORED)
    return MicroBatch(ids=ids, targets=targets, lengths=lengths, num_tokens=len(ids), num_supervised=int(learned.sum()))
