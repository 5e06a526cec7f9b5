"""The memory terms against what was measured with the whole model on an H100."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartbeat import memory
from heartbeat.job import FineTuneJob
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


@pytest.mark.parametrize(
    ("mode", "work", "measured_gib"),
    [
        ("resident", packed(2, 2), 65.4),
        ("streamed", packed(8, 1), 10.0),
        ("streamed", packed(16, 2), 11.5),
    ],
)
def test_the_terms_add_up_to_the_measured_peaks(mode: str, work: Workload, measured_gib: float) -> None:
    terms = memory.gpu_terms(SCOUT, ATTENTION_ONLY, work, mode=mode, num_gpus=1)
    # Context and margin are outside what torch counts. The measured runs held no optimizer state.
    counted = sum(terms.values()) - terms["context"] - terms["margin"] - terms["adapter_and_optimizer"]
    assert measured_gib * 0.99 < counted < measured_gib * 1.06


def test_sharding_splits_the_layers_and_nothing_else() -> None:
    one, eight = (memory.gpu_terms(SCOUT, FineTuneJob(), packed(64, 1), mode="sharded", num_gpus=n) for n in (2, 16))
    head = SCOUT.head_bytes / memory.GIB
    assert (one["weights"] - head) == pytest.approx(8 * (eight["weights"] - head))
    assert one["layers_in_flight"] == eight["layers_in_flight"] == pytest.approx(2.31, abs=0.01)


def test_streaming_needs_the_weights_on_the_host() -> None:
    streamed = memory.host_terms(SCOUT, packed(64, 2), mode="streamed", num_gpus=4)
    assert streamed["weights"] == pytest.approx(48 * 1.154 + 1.93, abs=0.2)
    # 64 sequences x 4,096 tokens x 5,120 x 2 bytes x 48 layers, wherever they are computed.
    assert streamed["boundary_activations"] == pytest.approx(64 * 4096 * 5120 * 2 * 48 / 2**30)
    assert "weights" not in memory.host_terms(SCOUT, packed(64, 2), mode="resident", num_gpus=4)


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
