"""Hours: small steps are not promised for nothing, and what has no basis is not timed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from heartbeat import calibration, catalog, timing
from heartbeat.calibration import Calibration
from heartbeat.scout import SCOUT
from heartbeat.timing import Timing
from heartbeat.workload import Workload
from tests.unit.test_memory import ATTENTION_ONLY, packed

CATALOG = catalog.load()
H100, A100 = (CATALOG.get(name) for name in ("ml.p5.4xlarge", "ml.p4d.24xlarge"))
STORED = calibration.stored(CATALOG)


def estimate(work: Workload, name: str = "ml.p5.4xlarge", mode: str = "resident") -> Timing:
    found = timing.estimate(SCOUT, ATTENTION_ONLY, work, CATALOG.get(name), mode, STORED)
    assert found is not None
    return found


def test_a_step_of_few_tokens_still_pays_for_all_weights() -> None:
    few = replace(packed(64, 2), tokens_per_row=1.0)
    # All 105.7 B parameters of the layers are read three times, and dequantised twice.
    assert estimate(few).seconds_per_step > 3 * 2 * 105.7e9 / (1.2 * 3.35e12)
    assert estimate(few, mode="streamed").seconds_per_step == pytest.approx(
        estimate(few, mode="streamed").step["weight_movement"]
    )


def test_a_gathered_layer_takes_what_it_was_measured_to_take() -> None:
    # 4.6 ms for the 1.15 GiB that a layer then had, on 4 H200 (docs/decisions.md); twice for each group of 8.
    h200 = replace(CATALOG.get("ml.p5en.48xlarge"), num_gpus=4)
    found = timing.estimate(SCOUT, ATTENTION_ONLY, packed(64, 2), h200, "sharded", STORED)
    assert found is not None
    once = found.work.link_bytes / 2 / SCOUT.num_layers
    assert once == pytest.approx(0.75 * 1.057 * 2**30, rel=1e-3)
    boundaries = found.work.host_bytes / (63e9 * calibration.HOST_SHARE)
    assert found.step["weight_movement"] == pytest.approx(max(found.work.link_bytes / 199e9, boundaries), rel=1e-3)


def test_more_groups_move_and_dequantise_more_often() -> None:
    one, two = (estimate(packed(rows, 1), mode="streamed").work for rows in (8, 16))
    assert two.memory_bytes["dequantising"] == 2 * one.memory_bytes["dequantising"]
    assert two.host_bytes == 2 * one.host_bytes


def test_another_gpu_is_scaled_by_its_peak_and_bandwidth_and_says_so() -> None:
    measured, scaled = estimate(packed(64, 2)), estimate(packed(64, 2), "ml.p4de.24xlarge")
    assert (measured.confidence, scaled.confidence) == ("measured", "scaled")
    eighth = estimate(packed(8, 2)).step["arithmetic"]  # what each of 8 GPUs has to do
    assert eighth * 3350 / 2039 < scaled.step["arithmetic"] < eighth * 989 / 312
    assert (scaled.high - scaled.low) / scaled.total > (measured.high - measured.low) / measured.total


def test_a_figure_names_the_files_that_it_rests_on() -> None:
    for source in estimate(packed(64, 2)).sources:
        assert source.startswith("benchmarks/results/resident-")


def test_the_users_rate_wins() -> None:
    found = timing.estimate(SCOUT, ATTENTION_ONLY, packed(64, 2), A100, "sharded", STORED, tokens_per_second=20_000)
    assert found is not None
    assert found.seconds_per_step == pytest.approx(64 * 4096 / 20_000)
    assert (found.confidence, found.sources) == ("given", ())


def test_the_range_holds_the_best_guess() -> None:
    for instance in CATALOG:
        for mode in ("resident", "streamed"):
            found = estimate(packed(64, 2), instance.instance_type, mode)
            assert found.low < found.total < found.high


def test_what_has_no_basis_is_none() -> None:
    def of(instance: catalog.Instance, mode: str, measured: Calibration = STORED) -> Timing | None:
        return timing.estimate(SCOUT, ATTENTION_ONLY, packed(64, 2), instance, mode, measured)

    assert of(replace(H100, gpu="X", peak_tflops=None), "resident") is None
    assert of(replace(H100, gpu="X", memory_gb_per_second=None), "resident") is None
    no_link = replace(A100, link_gb_per_second=None)
    assert of(no_link, "sharded") is None
    assert of(no_link, "resident") is not None
    assert of(H100, "resident", Calibration((), CATALOG)) is None


def test_small_micro_batches_wait_for_the_processor() -> None:
    """Half of the tokens in as many micro-batches take no less time, once starting kernels is what takes it."""
    small, smaller = (
        estimate(replace(packed(16, 1), tokens_per_row=float(tokens), micro_batch_tokens=tokens))
        for tokens in (512, 256)
    )
    assert small.work.launches == smaller.work.launches
    assert small.seconds_per_step == smaller.seconds_per_step == small.step["launches"]
    assert smaller.step["arithmetic"] < small.step["arithmetic"] < small.step["launches"]
