"""Measurements as benchmarks write them, and what is made of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import scout_step
from heartbeat import calibration, catalog, measurements
from heartbeat.calibration import Calibration
from heartbeat.measurements import Measurement, MeasurementError
from training_code.batches import part_of
from training_code.tokenizer import Encoded

CATALOG = catalog.load()
STORED = measurements.load()
GPU = CATALOG.get("ml.p5.4xlarge")
H200 = CATALOG.get("ml.p5en.48xlarge")


def result(**changes: Any) -> dict[str, Any]:
    """As `benchmarks/scout_step.py` prints it."""
    settings = {name: changes.pop(name) for name in list(changes) if name in _SETTINGS and name != "mode"}
    return {
        "tokens_per_second": 5000.0,
        "seconds_per_step": 12.8,
        "tokens_per_step": 64_000,
        "micro_batches_per_gpu": 8,
        "supervised_share": 0.4,
        "peak_gpu_gib": 62.0,
        "peak_host_gib": 39.0,
        "gpu": "NVIDIA H100 80GB HBM3",
        "num_gpus": 1,
        "mode": "resident",
        "date": "2026-11-22T12:00:00+00:00",
        "code_version": "abc1234",
        "settings": {**_SETTINGS, **settings},
        **changes,
    }


_SETTINGS = vars(scout_step.parse([]))


def write(folder: Path, **files: dict[str, Any]) -> tuple[Measurement, ...]:
    for name, values in files.items():
        (folder / f"{name}.json").write_text(json.dumps(values))
    return measurements.read(folder)


def test_what_the_benchmark_writes_is_read(tmp_path: Path) -> None:
    (found,) = write(tmp_path, one=result(mode="streamed", lora_targets="attention", batch=1))
    assert (found.file, found.gpu, found.mode) == ("benchmarks/results/one.json", "H100-80GB", "streamed")
    assert found.job.lora_targets == ("attention",)
    assert found.work.step_tokens == pytest.approx(64_000)
    assert found.work.micro_batches_per_gpu(1) == 8, "as packing came out, not as it might have"
    assert found.layout.group_size == 8
    assert measurements.CHAT_TOKENS == scout_step.MEAN_CONVERSATION_TOKENS


def test_a_step_with_more_micro_batches_than_most_is_left_out() -> None:
    """Rows of chance lengths fill one more now and then: its time would be said of fewer micro-batches."""
    few, more = (part_of([Encoded([1] * 4, [True] * 4)] * rows, capacity=8, rank=0, world_size=1) for rows in (4, 6))
    timed = [scout_step._Timed(seconds, part, {}) for seconds, part in ((5.0, few), (7.0, more), (6.0, few))]
    assert [one.seconds for one in scout_step._usual(timed)] == [5.0, 6.0]


def test_what_is_not_of_the_whole_model_on_a_gpu_is_left_out(tmp_path: Path) -> None:
    found = write(
        tmp_path,
        cpu=result(gpu="CPU"),
        tiny=result(tiny=True),
        few=result(layers=3),
        other=result(dequantise_each_time=True),
        whole=result(layers=48),
    )
    assert [m.file for m in found] == ["benchmarks/results/whole.json"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (result(gpu="NVIDIA B300"), "gpu='NVIDIA B300' is none of"),
        (result(seconds_per_step=0), "seconds_per_step=0 must be above 0"),
        ({"gpu": "CPU"}, "lacks 'settings'"),
    ],
)
def test_a_broken_file_is_named(values: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(MeasurementError) as caught:
        write(tmp_path, broken=values)
    assert said in str(caught.value)
    assert "broken.json" in str(caught.value)


def test_a_file_that_is_not_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "half.json").write_text("{")
    with pytest.raises(MeasurementError, match=r"half\.json"):
        measurements.read(tmp_path)


def test_a_gpu_that_does_what_its_shares_say_gives_the_shares_back() -> None:
    """Steps that are made from known shares, of three different mixtures of products and traffic."""
    made = []
    for m in STORED:
        if m.mode != "resident":
            continue
        work = calibration.work_of(m)
        seconds = sum(work.flops.values()) / (989e12 * 0.5) + sum(work.memory_bytes.values()) / (3.35e12 * 0.8)
        made.append(replace(m, gpu="H100-80GB", seconds_per_step=seconds, launch_seconds=1e-6))
    rates = Calibration(made, CATALOG).rates(GPU, "resident")
    assert rates is not None
    assert rates.flops_per_second == pytest.approx(989e12 * 0.5)
    assert rates.memory_bytes_per_second == pytest.approx(3.35e12 * 0.8)


def test_one_measurement_comes_back_as_it_is() -> None:
    one = next(m for m in STORED if m.mode == "resident")
    rates = Calibration([one], CATALOG).rates(GPU, "resident")
    assert rates is not None
    assert rates.arithmetic_seconds(calibration.work_of(one)) == pytest.approx(one.seconds_per_step)


def test_confidence_is_measured_only_for_the_same_gpu_mode_and_number() -> None:
    resident = [m for m in STORED if m.mode == "resident"]
    found = Calibration(resident, CATALOG)
    labels = {
        (name, mode): rates.confidence
        for name, mode in [("ml.p5.4xlarge", "resident"), ("ml.p5.4xlarge", "streamed"), ("ml.p5.48xlarge", "resident")]
        if (rates := found.rates(CATALOG.get(name), mode))
    }
    assert list(labels.values()) == ["measured", "scaled", "scaled"]
    other = found.rates(CATALOG.get("ml.p4d.24xlarge"), "sharded")
    assert other is not None
    assert other.confidence == "scaled"
    assert other.sources == tuple(m.file for m in resident)


def test_every_stored_step_is_predicted_from_the_others() -> None:
    """Step time within 10% and peak memory within 5%."""
    found = calibration.backtest(STORED, CATALOG)
    assert len(found) == len(STORED) > 5
    for one in found:
        assert one.gpu_error == pytest.approx(0, abs=0.05), one.measurement.file
        if not one.measurement.shares_gpus:
            assert one.seconds_error == pytest.approx(0, abs=0.1), one.measurement.file


def test_a_step_that_waits_for_the_processor_says_nothing_of_the_arithmetic() -> None:
    large = [m for m in STORED if m.gpu == "H200-141GB" and m.mode == "resident" and m.work.micro_batch_tokens == 8192]
    small = replace(large[0], seconds_per_step=1.2 * 0.01 * calibration.work_of(large[0]).launches, launch_seconds=0.01)
    of_large, of_all = (Calibration(some, CATALOG).rates(H200, "streamed") for some in (large, [*large, small]))
    assert of_large is not None
    assert of_all is not None
    assert of_all.flops_per_second == of_large.flops_per_second
    assert of_all.memory_bytes_per_second == of_large.memory_bytes_per_second


def test_what_starting_kernels_takes_is_measured_where_it_was() -> None:
    known = [replace(m, launch_seconds=seconds) for m, seconds in zip(STORED, (0.004, 0.007, 0.005), strict=False)]
    for some, expected in ((known, 0.005), ([replace(m, launch_seconds=None) for m in STORED], 0.005), (STORED, None)):
        rates = Calibration([replace(m, gpu="H100-80GB") for m in some], CATALOG).rates(GPU, "resident")
        assert rates is not None
        if expected is not None:
            assert rates.seconds_per_launch == expected
        assert rates.launch_seconds(calibration.work_of(STORED[0])) == pytest.approx(
            calibration.work_of(STORED[0]).launches * rates.seconds_per_launch
        )


def test_where_a_gpus_steps_are_alike_others_tell_products_from_traffic() -> None:
    """One measured step says how good a GPU is, not at what."""
    of_h200 = [m for m in STORED if m.gpu == "H200-141GB" and m.mode == "resident"]
    one = next(m for m in STORED if m.gpu == "H100-80GB")
    both = Calibration([*of_h200, one], CATALOG)
    h100, h200 = both.rates(GPU, "resident"), both.rates(H200, "resident")
    assert h100 is not None
    assert h200 is not None
    assert h100.arithmetic_seconds(calibration.work_of(one)) == pytest.approx(one.seconds_per_step)
    peak = GPU.peak_tflops, GPU.memory_gb_per_second, H200.peak_tflops, H200.memory_gb_per_second
    ratio = (h100.flops_per_second / peak[0]) / (h100.memory_bytes_per_second / peak[1])  # type: ignore[operator]
    assert ratio == pytest.approx((h200.flops_per_second / peak[2]) / (h200.memory_bytes_per_second / peak[3]))  # type: ignore[operator]


def test_ranks_that_share_a_gpu_say_what_they_need_and_not_how_fast_they_are(tmp_path: Path) -> None:
    (found,) = write(tmp_path, one=result(mode="sharded", num_gpus=4, ranks_per_gpu=2, peak_gpu_gib=22.0))
    assert found.shares_gpus
    assert Calibration([found], CATALOG).rates(GPU, "sharded") is None
    (one,) = (one for one in calibration.backtest([*STORED, found], CATALOG) if one.measurement is found)
    assert (one.predicted_seconds, one.seconds_error) == (None, None)
    assert one.gpu_error is not None


def test_without_others_nothing_is_predicted() -> None:
    (found,) = calibration.backtest(STORED[:1], CATALOG)
    assert (found.confidence, found.predicted_seconds, found.seconds_error) == ("unknown", None, None)
