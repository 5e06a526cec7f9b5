"""The benchmark measures something on a machine without a GPU too, so that it works where it counts."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest

from benchmarks import dataset_check, generate, quantize_memory, random_model, scout_step
from heartbeat.scout import SCOUT, ModelShape


def test_the_benchmarks_model_is_the_planners() -> None:
    assert ModelShape.from_config(random_model.SCOUT) == replace(SCOUT, vision_parameters=0)


@pytest.mark.parametrize("mode", ["resident", "streamed"])
def test_prints_one_line_of_json(
    mode: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--tiny", "--batch", "1", "--max-length", "128", "--micro-batches", "2", "--steps", "2", "--warm-up", "1"]
    monkeypatch.setattr(sys, "argv", ["scout_step", "--mode", mode, *small, "--layers", "2"])
    scout_step.main()
    *steps, last = capsys.readouterr().out.splitlines()
    assert len(steps) == 3
    found = json.loads(last)
    expected = {"peak_gpu_gib", "peak_host_gib", "gpu", "num_gpus", "processor", "mode", "date", "code_version"}
    assert expected <= found.keys()
    assert found["tokens_per_step"] == pytest.approx(256, rel=0.05)
    assert found["tokens_per_second"] == pytest.approx(found["tokens_per_step"] / found["seconds_per_step"])
    parts = found["seconds_by_part"]
    assert set(parts) == {"forward", "head", "backward", "optimizer"}
    assert sum(parts.values()) <= max(found["seconds_of_steps"])
    assert found["ratio_to_ceiling"] > 0


def test_micro_batches_are_as_large_as_a_jobs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--tiny", "--layers", "1", "--max-length", "2048", "--micro-batches", "1"]
    once = ["--steps", "1", "--warm-up", "0"]
    monkeypatch.setattr(sys, "argv", ["scout_step", "--mode", "resident", *small, *once])
    scout_step.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["settings"]["batch"] == 4
    assert found["tokens_per_step"] == pytest.approx(8192, rel=0.05)


def test_the_generation_benchmark_measures_reading_and_saying(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--tiny", "--batch", "3", "--prompt", "20", "--new", "5", "--runs", "1", "--layers", "2"]
    monkeypatch.setattr(sys, "argv", ["generate", *small])
    generate.main()
    found = json.loads(capsys.readouterr().out)
    assert found["prefill_tokens_per_second"] == pytest.approx(60 / found["seconds_to_read"])
    assert found["decode_tokens_per_second"] == pytest.approx(3 / found["seconds_per_walk"])
    # Keys and values of 2 heads of 64 numbers in two layers, f32.
    assert found["cache_gib_per_gpu"] * 2**30 == 3 * 25 * 2 * 2 * 64 * 2 * 4
    monkeypatch.setattr(sys, "argv", ["generate", "--tiny", "--new", "1"])
    with pytest.raises(SystemExit, match="--new 1"):
        generate.main()


@pytest.mark.parametrize("mode", ["plain", "near"])
def test_the_dataset_benchmark_prints_what_its_process_measured(
    mode: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["dataset_check", "--megabytes", "1", "--modes", mode])
    dataset_check.main()
    found = json.loads(capsys.readouterr().out)
    assert found["mode"] == mode
    assert found["megabytes"] == pytest.approx(1, rel=0.05)
    assert found["findings"] == {}
    assert found["megabytes_per_cpu_second"] > 0
    assert found["peak_mib"] > 24


def test_the_tools_hold_a_small_part_of_a_checkpoint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["quantize_memory", "--tiny", "--layers", "32"])
    quantize_memory.main()
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["tool"] for one in found] == ["quantize", "merge"]
    for one in found:
        assert one["peak_host_gib"] - one["of_the_imports_gib"] < one["source_gb"] * 1e9 / 2**30 / 2
