"""What a step computes: its conversations dealt to GPUs, packed into micro-batches without padding."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain

import torch
from torch import Tensor
from torch.nn import functional

from heartbeat.packing import pack
from training_code.tokenizer import Encoded

IGNORED = -100
"""The target of a token whose next one is not learned; cross_entropy's own ignore_index."""

_PADDING = 0  # An id that every vocabulary has. Padding is a document of its own, which no other attends to.


@dataclass(frozen=True, kw_only=True, eq=False)
class MicroBatch:
    """Conversations laid end to end. Attention, positions and targets end where one does, so they do not mix."""

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


@dataclass(frozen=True, kw_only=True)
class Part:
    """One rank's part of some conversations, and what it must know of the others'."""

    batches: list[MicroBatch]
    documents: list[int]
    """Which of the conversations lie in `batches`, in their order."""
    num_batches: int
    """Of the rank that has the most: all ranks fetch the layers as often as it does."""
    num_tokens: int
    """Of all ranks together."""
    num_supervised: int
    """Likewise: what every rank divides its loss by."""


def part_of(documents: Sequence[Encoded], *, capacity: int, rank: int, world_size: int) -> Part:
    """Deal documents to ranks by their lengths, and pack each rank's into micro-batches of at most `capacity` tokens.

    A function of its arguments alone, so that ranks agree without a word and a resumed run repeats itself. Raises
    ValueError for a document that is empty or longer than `capacity`.
    """
    shares = deal([len(document.ids) for document in documents], world_size)
    packed = [
        [[share[index] for index in row] for row in pack([len(documents[i].ids) for i in share], capacity, seed=0)]
        for share in shares
    ]
    return Part(
        batches=[micro_batch([documents[index] for index in row]) for row in packed[rank]],
        documents=[index for row in packed[rank] for index in row],
        num_batches=max(len(rows) for rows in packed),
        num_tokens=sum(len(document.ids) for document in documents),
        num_supervised=sum(document.num_supervised for document in documents),
    )


def deal(lengths: Sequence[int], num_shares: int) -> list[list[int]]:
    """Indices of documents for each share, their tokens as even as may be: the longest first, to who has least.

    The largest share is at most 4/3 of the best possible (Graham 1969).
    """
    shares: list[list[int]] = [[] for _ in range(num_shares)]
    loads = [(0, share) for share in range(num_shares)]
    for index in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        load, share = heapq.heappop(loads)
        shares[share].append(index)
        heapq.heappush(loads, (load + lengths[index], share))
    return shares


def micro_batch(documents: Sequence[Encoded]) -> MicroBatch:
    """These documents, at least one, end to end."""
    lengths = tuple(len(document.ids) for document in documents)
    ids = torch.tensor(list(chain.from_iterable(document.ids for document in documents)), dtype=torch.int64)
    learned = torch.tensor(list(chain.from_iterable(document.supervised for document in documents)), dtype=torch.bool)
    # Nothing comes before a document's first token to predict it from.
    learned[list(accumulate(lengths[:-1], initial=0))] = False
    targets = torch.full_like(ids, IGNORED)
    targets[:-1] = ids[1:].where(learned[1:], IGNORED)
    return MicroBatch(ids=ids, targets=targets, lengths=lengths, num_tokens=len(ids), num_supervised=int(learned.sum()))
