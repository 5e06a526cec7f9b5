"""What the trainer says at its start and end of what the planner expects."""

from __future__ import annotations

import pytest

from heartbeat import measurements
from heartbeat.scout import SCOUT
from training_code import forecast
from training_code.llama import Placement
from training_code.placing import Arrangement


@pytest.mark.parametrize("mode", ["resident", "streamed"])
def test_the_planner_is_asked_for_what_was_measured(mode: str) -> None:
    of_mode = (m for m in measurements.load() if m.mode == mode and m.gpu == "H200-141GB")
    measured = max(of_mode, key=lambda m: m.work.step_tokens)
    arrangement = Arrangement(mode=mode, weight_format="nf4", placement=Placement(boundaries="host", group_size=8))
    name = "NVIDIA H200"
    found = forecast.of_run(measured.job, SCOUT, measured.work, arrangement, device_name=name, num_gpus=1)
    assert found is not None
    assert found.confidence == "measured"
    assert found.gpu_gib == pytest.approx(measured.peak_gpu_gib, rel=0.05)
    assert found.seconds_per_step == pytest.approx(measured.seconds_per_step, rel=0.1)
    said = found.compare(measured.seconds_per_step, measured.peak_gpu_gib or 0.0)
    assert f"{measured.seconds_per_step:.1f} s a step, where {found.seconds_per_step:.1f} were planned" in said


def test_of_an_unknown_gpu_nothing_is_said() -> None:
    (measured, *_) = measurements.load()
    arrangement = Arrangement(mode="resident", weight_format="nf4", placement=Placement())
    assert (
        forecast.of_run(measured.job, SCOUT, measured.work, arrangement, device_name="NVIDIA Tesla K80", num_gpus=1)
        is None
    )
