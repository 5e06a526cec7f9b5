"""The memory terms; tests/unit/test_calibration.py holds their sums against what was measured."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartbeat import memory
from heartbeat.job import FineTuneJob
from heartbeat.memory import Fit, Layout
from heartbeat.scout import SCOUT
from heartbeat.workload import Workload

MODES = st.sampled_from(["resident", "sharded", "streamed"])
ATTENTION_ONLY = FineTuneJob(lora_targets=("attention",))


def packed(step_rows: int, sequences: int) -> Workload:
    """Full sequences of 4,096 tokens, `sequences` of them in a micro-batch."""
    return Workload(
        training_rows=1000,
        heldout_rows=100,
        tokens_per_row=4096,
        step_rows=step_rows,
        micro_batch_tokens=sequences * 4096,
        max_length=4096,
        max_steps=400,
    )


def test_sharding_splits_the_layers_and_nothing_else() -> None:
    one, eight = (memory.gpu_terms(SCOUT, FineTuneJob(), packed(64, 1), mode="sharded", num_gpus=n) for n in (2, 16))
    head = SCOUT.head_bytes / memory.GIB
    assert (one["weights"] - head) == pytest.approx(8 * (eight["weights"] - head))
    assert one["layers_in_flight"] == eight["layers_in_flight"] == pytest.approx(1.058, abs=0.01)


def test_streaming_needs_the_weights_on_the_host() -> None:
    streamed = memory.host_terms(SCOUT, packed(64, 2), mode="streamed", num_gpus=4)
    assert streamed["weights"] == pytest.approx(48 * 1.057 + 4 * 1.93, abs=0.2)
    # 64 sequences x 4,096 tokens x 5,120 x 2 bytes x 48 layers: of 4 GPUs, each with a group of 8 micro-batches of 2.
    assert streamed["boundary_activations"] == pytest.approx(64 * 4096 * 5120 * 2 * 48 / 2**30)
    assert "weights" not in memory.host_terms(SCOUT, packed(64, 2), mode="resident", num_gpus=4)


def test_boundaries_lie_where_the_layout_says() -> None:
    work = packed(64, 2)
    on_host, on_device = (
        (
            memory.gpu_terms(SCOUT, FineTuneJob(), work, mode="resident", num_gpus=1, layout=layout),
            memory.host_terms(SCOUT, work, mode="resident", num_gpus=1, layout=layout),
        )
        for layout in (Layout(), Layout(boundaries="device", group_size=1))
    )
    # A group of 8 micro-batches of 8,192 tokens between two layers; one micro-batch's at all 48 layers.
    assert on_host[0]["boundary_activations"] == pytest.approx(8 * 8192 * 5120 * 2 / 2**30)
    assert on_device[0]["boundary_activations"] == pytest.approx(48 * 8192 * 5120 * 2 / 2**30)
    assert on_host[1]["boundary_activations"] == pytest.approx(48 * 8 * 8192 * 5120 * 2 / 2**30)
    assert "boundary_activations" not in on_device[1]


@given(st.integers(1, 128), st.integers(1, 8), MODES)
def test_more_rows_never_need_less(rows: int, num_gpus: int, mode: str) -> None:
    def needed(step_rows: int) -> tuple[float, float]:
        work = packed(step_rows, 2)
        return (
            sum(memory.gpu_terms(SCOUT, FineTuneJob(), work, mode=mode, num_gpus=num_gpus).values()),
            sum(memory.host_terms(SCOUT, work, mode=mode, num_gpus=num_gpus).values()),
        )

    less, more = needed(rows), needed(rows + 1)
    assert less[0] <= more[0]
    assert less[1] <= more[1] * 1.5  # Rows are dealt out whole: one more GPU in use may even the others out.


SIZES = st.floats(8, 300)
MAX_LENGTHS = st.integers(64, 8191)


def fitted(max_length: int, mode: str, gpu_gib: float, host_gib: float = 1000.0) -> Fit:
    work = replace(packed(64, 1), tokens_per_row=max_length / 2, max_length=max_length)
    return memory.fit(SCOUT, FineTuneJob(), work, mode=mode, num_gpus=4, gpu_gib=gpu_gib, host_gib=host_gib)


@given(MAX_LENGTHS, MODES, SIZES, SIZES)
def test_what_fits_is_within_the_memory_and_more_memory_is_used(
    max_length: int, mode: str, gib: float, more: float
) -> None:
    found, larger = fitted(max_length, mode, gib), fitted(max_length, mode, gib + more)
    smallest = fitted(max_length, mode, 0.0)
    assert smallest.work.micro_batch_tokens == max_length, "a conversation is never cut"
    assert found.work.micro_batch_tokens % max_length == 0
    assert max_length <= found.work.micro_batch_tokens <= larger.work.micro_batch_tokens <= max(8192, max_length)
    assert found.is_within(gpu_gib=gib, host_gib=1000.0) == (sum(smallest.gpu.values()) <= gib)


@given(MAX_LENGTHS, MODES, st.floats(40, 400))
def test_a_group_is_what_the_host_has_memory_for(max_length: int, mode: str, host_gib: float) -> None:
    found = fitted(max_length, mode, 80.0, host_gib)
    if found.layout.group_size < 8 and found.is_within(gpu_gib=80.0, host_gib=host_gib):
        layout = Layout(group_size=found.layout.group_size + 1)
        more = memory.host_terms(SCOUT, found.work, mode=mode, num_gpus=4, layout=layout)
        assert sum(more.values()) > host_gib


def test_a_small_host_has_smaller_groups_before_smaller_micro_batches() -> None:
    sizes = []
    # 4 processes and the embedding, page-locked by each, take 44 GiB; a micro-batch of 8,192 on each GPU 15 more.
    for host_gib in (1000.0, 100.0, 60.0, 55.0):
        found = fitted(4096, "sharded", 80.0, host_gib)
        sizes.append((found.work.micro_batch_tokens, found.layout.group_size))
    assert sizes == [(8192, 8), (8192, 3), (8192, 1), (4096, 1)]
