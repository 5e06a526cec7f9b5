"""Packing: nothing is lost, cut or over-full, and few rows are wasted."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartbeat.packing import pack

CAPACITY = 64
LENGTHS = st.lists(st.integers(1, CAPACITY), max_size=120)


def fills(lengths: list[int], rows: list[list[int]]) -> list[int]:
    """Tokens of each row, ascending."""
    return sorted(sum(lengths[index] for index in row) for row in rows)


@given(LENGTHS, st.integers())
def test_every_document_is_in_one_row_and_no_row_is_over_full(lengths: list[int], seed: int) -> None:
    rows = pack(lengths, CAPACITY, seed=seed)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(0 < tokens <= CAPACITY for tokens in fills(lengths, rows))


@given(LENGTHS, st.integers(), st.integers())
def test_a_seed_changes_the_order_and_never_the_rows_fill(lengths: list[int], one: int, other: int) -> None:
    assert pack(lengths, CAPACITY, seed=one) == pack(lengths, CAPACITY, seed=one)
    assert fills(lengths, pack(lengths, CAPACITY, seed=one)) == fills(lengths, pack(lengths, CAPACITY, seed=other))


def test_two_seeds_give_two_orders() -> None:
    lengths = [16] * 200
    one, other = pack(lengths, CAPACITY, seed="0:0"), pack(lengths, CAPACITY, seed="0:1")
    assert one != other
    assert sorted(map(sorted, one)) != sorted(map(sorted, other)), "equally long documents should change rows"
    assert any(row != sorted(row) for row in one)


def test_longest_first_is_not_the_order_that_is_trained_in() -> None:
    lengths = random.Random(0).choices(range(1, CAPACITY + 1), k=400)
    rows = pack(lengths, CAPACITY, seed=0)
    assert any(lengths[a] < lengths[b] for row in rows for a, b in pairwise(row))
    longest = [max(lengths[index] for index in row) for row in rows]
    assert longest != sorted(longest, reverse=True)


def test_every_python_gives_these_rows() -> None:
    """Recorded: a resumed run on another Python must go on with the same data."""
    assert pack([5, 3, 3, 2, 2, 2, 1, 1], 8, seed="0:0") == [[2, 0], [5, 3, 1, 6], [7, 4]]


@given(LENGTHS)
def test_each_document_goes_into_the_fullest_row_that_it_fits_into(lengths: list[int]) -> None:
    rows: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [row for row, tokens in enumerate(rows) if tokens + length <= CAPACITY]
        if fitting:
            rows[max(fitting, key=lambda row: rows[row])] += length
        else:
            rows.append(length)
    assert fills(lengths, pack(lengths, CAPACITY, seed=0)) == sorted(rows)


@given(st.lists(st.lists(st.integers(1, CAPACITY), max_size=7), min_size=1, max_size=60))
def test_near_the_fewest_rows_possible(cuts: list[list[int]]) -> None:
    # Full rows cut at random places: they can be put together again, so the fewest possible are as many.
    lengths = []
    for row in cuts:
        places = sorted({0, *row, CAPACITY})
        lengths += [end - start for start, end in pairwise(places)]
    fewest = len(cuts)
    assert len(pack(lengths, CAPACITY, seed=0)) <= min(3 / 2 * fewest, 11 / 9 * fewest + 4)


def test_conversations_fill_rows_of_4096_tokens() -> None:
    rng = random.Random(0)
    lengths = [min(4096, max(1, round(rng.lognormvariate(math.log(600) - 0.32, 0.8)))) for _ in range(5000)]
    assert sum(lengths) / (len(pack(lengths, 4096, seed=0)) * 4096) > 0.998


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([1, 64, 65], "document 2 has 65 tokens; a packed row takes 1 to 64"),
        ([1, 0], "document 1 has 0 tokens; a packed row takes 1 to 64"),
        ([-1], "document 0 has -1 tokens; a packed row takes 1 to 64"),
    ],
)
def test_what_fits_no_row_is_refused_by_index_and_length(lengths: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        pack(lengths, CAPACITY, seed=0)
