"""Packing: nothing is lost, cut or over-full, and few rows are wasted."""

from __future__ import annotations

import math
import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartbeat.packing import pack, quantiles, typical_rows

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


@given(st.dictionaries(st.integers(1, 4096), st.integers(1, 50), min_size=1), st.integers(1, 200))
def test_quantiles_stand_for_all_lengths(counts: dict[int, int], number: int) -> None:
    every = sorted(length for length, times in counts.items() for _ in range(times))
    found = quantiles(counts, number)
    assert found == [every[math.floor((k + 0.5) * len(every) / number)] for k in range(number)]


def test_of_no_documents_there_are_no_quantiles() -> None:
    assert quantiles({}) == []


@pytest.mark.parametrize("documents", [1, 8, 64, 512, 5000])
def test_a_typical_step_is_packed_as_steps_are(documents: int) -> None:
    """Within 2% and a row of what drawing documents and packing them comes to on average."""
    draw = random.Random(0)
    lengths = [min(4096, round(draw.lognormvariate(6, 1)) + 1) for _ in range(2000)]
    steps = [len(pack(draw.choices(lengths, k=documents), 8192, seed=0)) for _ in range(10)]
    found = typical_rows(tuple(quantiles(Counter(lengths))), documents, 8192)
    assert found == pytest.approx(sum(steps) / len(steps), abs=1, rel=0.02)


def test_a_document_longer_than_a_row_counts_as_one() -> None:
    assert typical_rows((100,) * 128, 3, 64) == 3
