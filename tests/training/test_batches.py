"""A step's conversations dealt to ranks and packed: every token once, every target where it belongs."""

from __future__ import annotations

from collections import Counter
from itertools import accumulate

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training_code.batches import IGNORED, MicroBatch, deal, micro_batch, part_of
from training_code.tokenizer import Encoded

MAX_LENGTH = 32


@st.composite
def datasets(draw: st.DrawFn, min_size: int = 1) -> list[Encoded]:
    """Documents of 1 to MAX_LENGTH tokens. Their first ids differ, so that each can be told from the others."""
    masks = draw(st.lists(st.lists(st.booleans(), min_size=1, max_size=MAX_LENGTH), min_size=min_size, max_size=40))
    return [
        Encoded(
            [1000 + number, *draw(st.lists(st.integers(0, 999), min_size=len(mask) - 1, max_size=len(mask) - 1))], mask
        )
        for number, mask in enumerate(masks)
    ]


def document(first_id: int, num_tokens: int) -> Encoded:
    return Encoded(list(range(first_id, first_id + num_tokens)), [True] * num_tokens)


def unpacked(batch: MicroBatch) -> list[tuple[list[int], list[int]]]:
    """Ids and targets of each document."""
    assert batch.ids.dtype == batch.targets.dtype == torch.int64
    assert batch.ids.shape == batch.targets.shape == (sum(batch.lengths),)
    ends = list(accumulate(batch.lengths))
    spans = [slice(end - length, end) for end, length in zip(ends, batch.lengths, strict=True)]
    return [(batch.ids[span].tolist(), batch.targets[span].tolist()) for span in spans]


def expected_targets(document: Encoded) -> list[int]:
    following = zip(document.ids[1:], document.supervised[1:], strict=True)
    return [*(token if learned else IGNORED for token, learned in following), IGNORED]


CAPACITY = 2 * MAX_LENGTH


@given(datasets(min_size=0), st.integers(1, 9))
def test_the_ranks_together_compute_each_document_once(documents: list[Encoded], world_size: int) -> None:
    parts = [part_of(documents, capacity=CAPACITY, rank=rank, world_size=world_size) for rank in range(world_size)]
    batches = [batch for part in parts for batch in part.batches]
    found = Counter((tuple(ids), tuple(targets)) for batch in batches for ids, targets in unpacked(batch))
    assert found == Counter((tuple(document.ids), tuple(expected_targets(document))) for document in documents)
    assert all(0 < len(batch.ids) <= CAPACITY for batch in batches)
    for part in parts:
        assert part.num_batches == max(len(other.batches) for other in parts)
        assert part.num_tokens == sum(batch.num_tokens for batch in batches) == sum(len(d.ids) for d in documents)
        assert part.num_supervised == sum(batch.num_supervised for batch in batches)
        assert part.num_supervised == sum(document.num_supervised for document in documents)


def test_a_step_is_the_same_every_time() -> None:
    documents = [document(100 * number, 1 + number % 30) for number in range(50)]
    one, other = (part_of(documents, capacity=CAPACITY, rank=1, world_size=3) for _ in range(2))
    assert [batch.ids.tolist() for batch in one.batches] == [batch.ids.tolist() for batch in other.batches]


@given(st.lists(st.integers(1, 4096), max_size=64), st.integers(1, 16))
def test_no_rank_has_much_more_than_the_others(lengths: list[int], num_shares: int) -> None:
    shares = deal(lengths, num_shares)
    assert sorted(index for share in shares for index in share) == list(range(len(lengths)))
    largest = max(sum(lengths[index] for index in share) for share in shares)
    at_least = max([sum(lengths) / num_shares, *lengths, *sorted(lengths, reverse=True)[num_shares - 1 : num_shares]])
    # Two of the num_shares + 1 longest must share a rank.
    longest = sorted(lengths, reverse=True)
    if len(longest) > num_shares:
        at_least = max(at_least, longest[num_shares - 1] + longest[num_shares])
    assert largest <= 4 / 3 * at_least


def test_the_next_documents_first_token_is_nobodys_target() -> None:
    batch = micro_batch([document(10, 3), document(20, 1), document(30, 2)])
    assert batch.ids.tolist() == [10, 11, 12, 20, 30, 31]
    assert batch.targets.tolist() == [11, 12, IGNORED, IGNORED, 31, IGNORED]
    assert (batch.lengths, batch.num_supervised, batch.num_tokens) == ((3, 1, 2), 3, 6)


def test_padding_is_a_document_that_nothing_is_learned_from() -> None:
    batch = micro_batch([document(10, 3)])
    wide = batch.padded_to(8)
    assert (wide.lengths, wide.num_tokens, wide.num_supervised) == ((3, 5), 3, 2)
    assert unpacked(wide) == [*unpacked(batch), ([0] * 5, [IGNORED] * 5)]
    assert batch.padded_to(3) is batch
    with pytest.raises(ValueError, match="of 3 tokens cannot be padded to 2"):
        batch.padded_to(2)
