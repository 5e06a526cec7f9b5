"""Hours: the measured rates come back, and small steps are not promised for nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from heartbeat import catalog, timing
from heartbeat.job import FineTuneJob
from heartbeat.scout import SCOUT
from heartbeat.timing import Timing
from heartbeat.workload import Workload
from tests.unit.test_memory import ATTENTION_ONLY, packed

H100, A100 = (catalog.load().get(name) for name in ("ml.p5.4xlarge", "ml.p4d.24xlarge"))


def estimate(work: Workload, name: str = "ml.p5.4xlarge", mode: str = "resident") -> Timing:
    found = timing.estimate(SCOUT, ATTENTION_ONLY, work, catalog.load().get(name), mode)
    assert found is not None
    return found


@pytest.mark.parametrize(("mode", "rate"), [("resident", 3951), ("streamed", 3046)])
def test_full_micro_batches_run_at_the_measured_rate(mode: str, rate: float) -> None:
    assert estimate(packed(64, 2), mode=mode).seconds_per_step == pytest.approx(64 * 4096 / rate, rel=1e-3)
    assert estimate(packed(64, 2), mode=mode).confidence == "measured"


def test_a_step_of_few_tokens_still_pays_for_all_weights() -> None:
    few = replace(packed(64, 2), tokens_per_row=1.0)
    assert estimate(few).seconds_per_step > 0.07 * 8192 / 3951
    assert estimate(few, mode="streamed").seconds_per_step == pytest.approx(
        estimate(few, mode="streamed").step["weight_movement"]
    )


def test_the_layers_traffic_is_as_measured() -> None:
    # 4.6 ms a layer of 1.15 GiB over NVLink on 4 H200, 32 ms from host memory (docs/decisions.md).
    h200 = replace(catalog.load().get("ml.p5en.48xlarge"), num_gpus=4)
    for mode, seconds in (("sharded", 4.6e-3), ("streamed", 32e-3)):
        found = timing.estimate(SCOUT, FineTuneJob(), packed(64, 2), h200, mode)
        assert found is not None
        assert found.step["weight_movement"] / (2 * SCOUT.num_layers) == pytest.approx(seconds, rel=0.03)


def test_another_gpu_is_scaled_by_its_peak_and_says_so() -> None:
    measured, scaled = estimate(packed(64, 2)), estimate(packed(64, 2), "ml.p4d.24xlarge", "sharded")
    assert scaled.confidence == "scaled"
    assert scaled.step["arithmetic"] == pytest.approx(measured.step["arithmetic"] * 989 / 312 / 8)
    assert (scaled.high - scaled.low) / scaled.total > (measured.high - measured.low) / measured.total


def test_the_range_holds_the_best_guess() -> None:
    for instance in catalog.load():
        for mode in ("resident", "streamed"):
            found = estimate(packed(64, 2), instance.instance_type, mode)
            assert found.low < found.total < found.high


def test_what_has_no_basis_is_none() -> None:
    nobody_knows = replace(H100, gpu="X", peak_tflops=None)
    assert timing.estimate(SCOUT, FineTuneJob(), packed(64, 2), nobody_knows, "resident") is None
    no_bandwidth = replace(A100, link_gb_per_second=None)
    assert timing.estimate(SCOUT, FineTuneJob(), packed(64, 2), no_bandwidth, "sharded") is None
    assert timing.estimate(SCOUT, FineTuneJob(), packed(64, 2), no_bandwidth, "resident") is not None
