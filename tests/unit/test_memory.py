"""The memory terms; tests/unit/test_calibration.py holds their sums against what was measured."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartbeat import memory
from heartbeat.job import FineTuneJob
from heartbeat.memory import Layout
from heartbeat.scout import SCOUT
from heartbeat.workload import Workload

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
    assert one["layers_in_flight"] == eight["layers_in_flight"] == pytest.approx(2 * 1.058, abs=0.01)


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


@given(st.integers(1, 128), st.integers(1, 8), st.sampled_from(["resident", "sharded", "streamed"]))
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
