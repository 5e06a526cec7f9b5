"""Several trainers on one machine, over gloo: the same numbers as one, wherever the frozen weights lie."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.training import tiny
from tests.training.test_train import read, train, wait_for
from training_code.environment import Environment
from training_code.launch import Cluster

# On a machine without GPUs the trainer would start one process.
LAUNCHED = """
import sys, torch
torch.cuda.device_count = lambda: {num}
from training_code.train import main
sys.exit(main())
"""
STEPS: dict[str, Any] = {
    "MAX_STEPS": 3,
    "WARMUP_STEPS": 1,
    "LORA_DROPOUT": 0,
    "PER_DEVICE_BATCH_SIZE": 1,
    "MAX_LENGTH": 512,
    "EVAL_GENERATE_ROWS": 2,
    "EVAL_MAX_NEW_TOKENS": 4,
}


@contextmanager
def launched(root: Path, num: int, port: int) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCHED.format(num=num)],
        env=tiny.child_environment(root, OMP_NUM_THREADS="1", MASTER_PORT=str(port)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def run(root: Path, num: int, port: int) -> str:
    with launched(root, num, port) as process:
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return said


def children_of(process: subprocess.Popen[str]) -> list[int]:
    """The trainers, in the order of their ranks."""
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


@pytest.fixture(scope="module")
def alone(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tiny.lay_out(tmp_path_factory.mktemp("alone") / "ml", base, **STEPS)
    assert train(root) == 0
    return root


def assert_same_losses(one: Path, other: Path) -> None:
    """Of the held-out rows, and of each of them: the intervals are made of the rows' own."""
    found, expected = read(one)["heldout"], read(other)["heldout"]
    for name in ("rows", "supervised_tokens", "base_loss", "tuned_loss"):
        assert found[name] == pytest.approx(expected[name], rel=1e-4)
    for part in ("base", "tuned", "ratio"):
        assert found["loss"][part] == pytest.approx(expected["loss"][part], rel=1e-4)


@pytest.mark.parametrize(("mode", "num"), [("sharded", 2), ("streamed", 3)])
def test_the_numbers_of_one_rank(base: Path, alone: Path, tmp_path: Path, mode: str, num: int, free_port: int) -> None:
    root = tiny.lay_out(tmp_path / "ml", base, **STEPS, MODE=mode)
    said = run(root, num, free_port)
    assert f"loading the base model: {mode}" in said
    assert said.count("step=1 ") == 1, "the first rank speaks for all"
    one, other = read(alone), read(root)
    for (_, loss), (_, expected) in zip(other["loss_curve"], one["loss_curve"], strict=True):
        assert loss == pytest.approx(expected, rel=1e-5)
    assert other["tokens_trained"] == one["tokens_trained"]
    assert_same_losses(root, alone)
    scored = [read(folder, "scores.json") for folder in (root, alone)]
    assert scored[0]["metrics"]["persona"]["turns"] == scored[1]["metrics"]["persona"]["turns"] > 0
    assert scored[0]["asked"]["base"]["tokens"] == scored[1]["asked"]["base"]["tokens"]
    bases = [[failure["base"] for failure in found["failures"]] for found in scored]
    assert bases[0] == bases[1]
    weights = [load_file(folder / "model/adapter/adapter_model.safetensors") for folder in (root, alone)]
    for name, tensor in weights[1].items():
        if name.endswith("lora_B.weight"):
            assert (weights[0][name] - tensor).norm() < 1e-3 * tensor.norm(), name


def test_killed_and_resumed_they_train_to_the_last_digit_as_if_unbroken(
    base: Path, tmp_path: Path, free_port: int
) -> None:
    settings = {**STEPS, "MAX_STEPS": 5, "LORA_DROPOUT": 0.1, "MODE": "sharded"}
    whole = tiny.lay_out(tmp_path / "whole", base, **settings)
    run(whole, 2, free_port)
    broken = tiny.lay_out(tmp_path / "broken", base, **settings, CHECKPOINT_MINUTES=1e-9)
    with launched(broken, 2, free_port) as process:
        wait_for(process, "step=3 ")
        for child in children_of(process):
            os.kill(child, signal.SIGKILL)
        process.communicate(timeout=60)
    (broken / "output/failure").unlink()
    assert "resuming after step" in run(broken, 2, free_port)
    assert read(broken)["loss_curve"] == read(whole)["loss_curve"]
    files = [root / "model/adapter/adapter_model.safetensors" for root in (whole, broken)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_another_number_of_ranks_does_not_resume(base: Path, alone: Path, tmp_path: Path, free_port: int) -> None:
    root = tiny.lay_out(tmp_path / "ml", base, **STEPS)
    (root / "checkpoints").symlink_to(alone / "checkpoints")
    before = sorted(path.name for path in (alone / "checkpoints").iterdir())
    with launched(root, 2, free_port) as process:
        process.communicate(timeout=120)
    assert process.returncode == 1
    assert "(number of GPUs was 1, and is 2)" in (root / "output/failure").read_text()
    assert sorted(path.name for path in (alone / "checkpoints").iterdir()) == before


def test_sigterm_leaves_a_usable_adapter(base: Path, tmp_path: Path, free_port: int) -> None:
    root = tiny.lay_out(tmp_path / "ml", base, **{**STEPS, "MAX_STEPS": 100_000}, MODE="sharded")
    with launched(root, 2, free_port) as process:
        wait_for(process, "step=3 ")
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    found = read(root)
    assert (found["status"], found["stop_reason"]) == ("stopped_early", "sigterm")
    assert load_file(root / "model/adapter/adapter_model.safetensors")
    assert not (root / "output/failure").exists()


def test_sigterm_within_an_evaluation_leaves_the_other_ranks_in_it(base: Path, tmp_path: Path, free_port: int) -> None:
    settings = {**STEPS, "MAX_STEPS": 100_000, "EVAL_EVERY_STEPS": 1, "EVAL_GENERATE_ROWS": 0}
    root = tiny.lay_out(tmp_path / "ml", base, **settings, MODE="sharded")
    (root / "input/data/heldout").mkdir()
    lines = [json.dumps(row) + "\n" for row in tiny.conversations(400)]  # seconds of evaluation
    (root / "input/data/heldout/chat.jsonl").write_text("".join(lines))
    with launched(root, 2, free_port) as process:
        wait_for(process, "step=1 ")
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    found = read(root)
    assert (found["stop_reason"], found["steps_done"]) == ("sigterm", 1)
    assert found["heldout"]["tuned_loss"] is None, "the first rank cannot evaluate alone"
    assert load_file(root / "model/adapter/adapter_model.safetensors")
    assert not (root / "output/failure").exists()


def test_a_rank_that_dies_ends_the_job(base: Path, tmp_path: Path, free_port: int) -> None:
    root = tiny.lay_out(tmp_path / "ml", base, **{**STEPS, "MAX_STEPS": 100_000}, MODE="sharded")
    with launched(root, 2, free_port) as process:
        wait_for(process, "step=2 ")
        children = children_of(process)
        os.kill(children[1], signal.SIGKILL)
        process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGKILL
    assert (root / "output/failure").read_text().startswith("the process of GPU 1 was ended by SIGKILL, as Linux does")
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline, "a trainer outlived its launcher"
        time.sleep(0.1)


def test_a_mistake_is_told_once(base: Path, tmp_path: Path, free_port: int) -> None:
    root = tiny.lay_out(tmp_path / "ml", base, **{**STEPS, "LEARNING_RAT": 1})
    with launched(root, 2, free_port) as process:
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "LEARNING_RAT is not a setting" in (root / "output/failure").read_text()
    assert "Traceback" not in said


def test_the_machines_of_a_job_are_numbered_alike_on_each(tmp_path: Path) -> None:
    """As SageMaker writes resourceconfig.json for two instances."""
    hosts = ["algo-2", "algo-1"]
    (tmp_path / "input/config").mkdir(parents=True)
    found = {}
    for here in hosts:
        resources = {"current_host": here, "hosts": hosts, "network_interface_name": "eth1"}
        (tmp_path / "input/config/resourceconfig.json").write_text(json.dumps(resources))
        found[here] = Environment(tmp_path).cluster()
    assert found["algo-1"] == Cluster(num_hosts=2, host=0, master="algo-1", interface="eth1")
    assert found["algo-2"] == Cluster(num_hosts=2, host=1, master="algo-1", interface="eth1")


@pytest.mark.parametrize(("host", "status"), [(0, 128 + signal.SIGABRT), (1, 0)])
def test_after_sigterm_only_the_first_machines_end_is_the_jobs(host: int, status: int) -> None:
    """NCCL aborts a process whose peer is gone."""
    trainer = (
        "import os, signal; signal.signal(signal.SIGTERM, lambda *_: os.abort()); print(flush=True); signal.pause()"
    )
    code = f"""
import sys
from training_code.launch import Cluster, launch
sys.exit(launch(["-c", {trainer!r}], num_processes=2, cluster=Cluster(num_hosts=2, host={host})).status)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(2):  # both trainers listen
            process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == status


def test_two_machines_of_one_gpu_train_as_one(base: Path, alone: Path, tmp_path: Path, free_port: int) -> None:
    """Two launchers that find each other, as on two instances; here both on this machine."""
    started = []
    for host in range(2):
        root = tiny.lay_out(tmp_path / f"host-{host}", base, **STEPS, MODE="sharded")
        code = f"""
import sys
from training_code.launch import Cluster, launch
cluster = Cluster(num_hosts=2, host={host})
sys.exit(launch(["-m", "training_code.train"], num_processes=1, cluster=cluster).status)
"""
        variables = tiny.child_environment(root, OMP_NUM_THREADS="1", MASTER_PORT=str(free_port))
        started.append(subprocess.Popen([sys.executable, "-c", code], env=variables))
    assert [process.wait(timeout=120) for process in started] == [0, 0]
    assert_same_losses(tmp_path / "host-0", alone)
    assert not (tmp_path / "host-1/model/metrics.json").exists(), "one machine speaks for both"
