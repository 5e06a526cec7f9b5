"""Packed rows, steps, ranks and micro-batches: every token once, every target where it belongs."""

from __future__ import annotations

from collections import Counter
from itertools import accumulate

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from heartbeat.packing import pack
from training_code.batches import (
    IGNORED,
    MicroBatch,
    PackedDataset,
    PackedRow,
    heldout_micro_batches,
    micro_batches,
    num_supervised,
    share_of,
)
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


def packed(documents: list[Encoded], seed: int = 0) -> PackedDataset:
    return PackedDataset(documents, max_length=MAX_LENGTH, seed=seed)


def names(rows: list[PackedRow]) -> list[int]:
    """First ids of the rows' documents, in order."""
    return [document.ids[0] for row in rows for document in row.documents]


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


# --- micro-batches


@given(datasets(), st.integers(1, 5))
def test_unpacking_gives_the_documents_back_with_their_own_targets(documents: list[Encoded], batch_size: int) -> None:
    made = micro_batches(packed(documents).rows_of_pass(0), batch_size)
    found = {ids[0]: (ids, targets) for batch in made for ids, targets in unpacked(batch)}
    assert found == {document.ids[0]: (document.ids, expected_targets(document)) for document in documents}
    assert sum(len(batch.lengths) for batch in made) == len(documents)


@given(datasets(), st.integers(1, 5))
def test_the_counts_are_the_documents(documents: list[Encoded], batch_size: int) -> None:
    rows = packed(documents).rows_of_pass(0)
    made = micro_batches(rows, batch_size)
    learned = sum(document.num_supervised for document in documents)
    assert num_supervised(rows) == num_supervised(made) == learned
    assert sum(int((batch.targets != IGNORED).sum()) for batch in made) == learned
    tokens = sum(len(document.ids) for document in documents)
    assert sum(row.num_tokens for row in rows) == sum(batch.num_tokens for batch in made) == tokens


def test_a_micro_batch_has_batch_size_rows_and_the_last_what_is_left() -> None:
    rows = packed([document(100 * number, MAX_LENGTH) for number in range(5)]).rows_of_pass(0)
    assert [len(batch.lengths) for batch in micro_batches(rows, 2)] == [2, 2, 1]
    assert micro_batches([], 2) == []


def test_the_next_documents_first_token_is_nobodys_target() -> None:
    (batch,) = micro_batches([PackedRow((document(10, 3), document(20, 1), document(30, 2)))], 1)
    assert batch.ids.tolist() == [10, 11, 12, 20, 30, 31]
    assert batch.targets.tolist() == [11, 12, IGNORED, IGNORED, 31, IGNORED]
    assert (batch.lengths, batch.num_supervised, batch.num_tokens) == ((3, 1, 2), 3, 6)


def test_padding_is_a_document_that_nothing_is_learned_from() -> None:
    (batch,) = micro_batches([PackedRow((document(10, 3),))], 1)
    wide = batch.padded_to(8)
    assert (wide.lengths, wide.num_tokens, wide.num_supervised) == ((3, 5), 3, 2)
    assert unpacked(wide) == [*unpacked(batch), ([0] * 5, [IGNORED] * 5)]
    assert batch.padded_to(3) is batch
    with pytest.raises(ValueError, match="of 3 tokens cannot be padded to 2"):
        batch.padded_to(2)


def test_to_moves_both_tensors() -> None:
    (batch,) = micro_batches([PackedRow((document(10, 3),))], 1)
    moved = batch.to(torch.device("meta"))
    assert (moved.ids.device.type, moved.targets.device.type, moved.lengths) == ("meta", "meta", (3,))


# --- steps and passes


@given(datasets(), st.integers(1, 9), st.integers(0, 5))
def test_steps_are_the_passes_one_after_the_other(documents: list[Encoded], num_rows: int, seed: int) -> None:
    dataset = packed(documents, seed)
    passes = [row for number in range(3) for row in dataset.rows_of_pass(number)]
    steps = [row for step in range(len(passes) // num_rows) for row in dataset.rows_of_step(step, num_rows=num_rows)]
    assert steps == passes[: len(steps)]
    assert len(passes) == 3 * dataset.num_rows
    for number in range(3):
        assert sorted(names(dataset.rows_of_pass(number))) == [document.ids[0] for document in documents]


@given(datasets(), st.integers(1, 9), st.integers(0, 9))
def test_a_resumed_run_sees_the_rows_that_it_would_have_seen(
    documents: list[Encoded], num_rows: int, step: int
) -> None:
    running = packed(documents)
    for earlier in range(step):
        running.rows_of_step(earlier, num_rows=num_rows)
    assert running.rows_of_step(step, num_rows=num_rows) == packed(documents).rows_of_step(step, num_rows=num_rows)


def test_passes_and_seeds_differ_in_order() -> None:
    documents = [document(100 * number, 8) for number in range(40)]
    orders = [names(packed(documents, seed).rows_of_pass(number)) for seed in (0, 1) for number in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


def test_a_step_of_more_rows_than_a_pass_goes_on_into_the_next() -> None:
    dataset = packed([document(100 * number, MAX_LENGTH) for number in range(3)])
    rows = dataset.rows_of_step(0, num_rows=7)
    assert Counter(names(rows)) == {0: 2, 100: 2, 200: 2, names(rows)[-1]: 3}


def test_a_pass_is_packed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []

    def counted(lengths: list[int], capacity: int, *, seed: str) -> list[list[int]]:
        seeds.append(seed)
        return pack(lengths, capacity, seed=seed)

    monkeypatch.setattr("training_code.batches.pack", counted)
    dataset = packed([document(100 * number, MAX_LENGTH) for number in range(10)], seed=5)
    for step in range(5):
        dataset.rows_of_step(step, num_rows=4)
    assert seeds == ["5:0", "5:1"]


def test_fill_rate() -> None:
    dataset = packed([document(0, 24), document(100, 8), document(200, 16)])
    assert (dataset.num_rows, dataset.num_tokens, dataset.fill_rate) == (2, 48, 0.75)


def test_without_documents_there_is_no_step_and_an_empty_pass() -> None:
    dataset = packed([])
    assert (dataset.num_rows, dataset.fill_rate, dataset.rows_of_pass(0)) == (0, 0.0, [])
    with pytest.raises(ValueError, match="no document"):
        dataset.rows_of_step(0, num_rows=1)


def test_a_document_over_max_length_is_refused() -> None:
    with pytest.raises(ValueError, match="document 1 has 33 tokens"):
        packed([document(0, 1), document(100, MAX_LENGTH + 1)])


# --- ranks


@given(datasets(), st.integers(1, 9), st.integers(1, 12), st.integers(1, 3))
def test_the_ranks_together_compute_the_step_whatever_their_number(
    documents: list[Encoded], num_rows: int, world_size: int, batch_size: int
) -> None:
    rows = packed(documents).rows_of_step(1, num_rows=num_rows)
    shares = [share_of(rows, rank, world_size) for rank in range(world_size)]
    assert Counter(id(row) for share in shares for row in share) == Counter(map(id, rows))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    ranks = [micro_batches(share, batch_size) for share in shares]
    seen = Counter(ids[0] for made in ranks for batch in made for ids, _ in unpacked(batch))
    assert seen == Counter(names(rows))
    assert sum(num_supervised(made) for made in ranks) == num_supervised(rows)


@given(datasets(min_size=0), st.integers(1, 3), st.integers(1, 5))
def test_the_ranks_together_evaluate_each_held_out_document_once(
    documents: list[Encoded], batch_size: int, world_size: int
) -> None:
    def evaluated(rank: int, world_size: int) -> list[int]:
        made = heldout_micro_batches(
            documents, batch_size=batch_size, max_length=MAX_LENGTH, rank=rank, world_size=world_size
        )
        return [ids[0] for batch in made for ids, _ in unpacked(batch)]

    together = [name for rank in range(world_size) for name in evaluated(rank, world_size)]
    assert sorted(together) == sorted(evaluated(0, 1)) == [document.ids[0] for document in documents]
