"""Whole training jobs through the container's contract: files in, files out, exit status."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from heartbeat import gate, held_out, metrics
from heartbeat.chat import render
from heartbeat.job import FineTuneJob
from serving import base_model
from tests.training import tiny
from training_code import adapter, checkpoint, layer, loading, quantize, step
from training_code.clock import Clock
from training_code.folder import only_process_in
from training_code.llama import Llama
from training_code.merge import merge
from training_code.run import Run
from training_code.tokenizer import ChatTokenizer
from training_code.train import main


def train(root: Path) -> int:
    with tiny.environment({"HEARTBEAT_OPT_ML": str(root)}):
        before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
        try:
            return main()
        finally:
            signal.signal(signal.SIGTERM, before[0])
            signal.signal(signal.SIGINT, before[1])


def start(root: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "training_code.train"],
        env=tiny.child_environment(root),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(process: subprocess.Popen[str], text: str) -> list[str]:
    assert process.stdout
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError(f"never said {text!r}: {''.join(lines)}")


def read(root: Path, name: str = "metrics.json") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / "model" / name).read_text())
    return found


def transformers_model(base: Path) -> Any:
    return base_model.load(base, torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job that ran to its end without a break."""
    root = tiny.lay_out(tmp_path_factory.mktemp("trained") / "ml", base, MAX_STEPS=8, EVAL_EVERY_STEPS=4)
    assert train(root) == 0
    return root


def test_leaves_what_the_contract_names(trained: Path) -> None:
    found = read(trained)
    assert {path.name for path in (trained / "model").iterdir()} == {
        "adapter",
        "metrics.json",
        "run.json",
        "scores.json",
    }
    assert {path.name for path in (trained / "model/adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
    }
    assert not (trained / "output/failure").exists()
    assert found["schema"] == 1
    assert (found["status"], found["stop_reason"]) == ("completed", None)
    assert (found["steps_done"], found["steps_planned"]) == (8, 8)
    assert [step for step, _ in found["loss_curve"]] == list(range(1, 9))
    assert (found["first_loss"], found["last_loss"]) == (found["loss_curve"][0][1], found["loss_curve"][-1][1])
    assert 0 < found["supervised_tokens_trained"] < found["tokens_trained"]
    assert sum(found["rows"].values()) == 24
    assert (found["rows"]["over_long"], found["rows"]["near_repeats"]) == (0, 1)
    assert found["tokens_per_second"] == pytest.approx(found["tokens_trained"] / found["seconds"])


def test_learns_and_passes_the_gate(trained: Path) -> None:
    heldout = read(trained)["heldout"]
    assert heldout["tuned_loss"] < 0.9 * heldout["base_loss"]
    for name, base, tuned in (
        ("loss", heldout["base_loss"], heldout["tuned_loss"]),
        ("perplexity", math.exp(heldout["base_loss"]), math.exp(heldout["tuned_loss"])),
    ):
        found = heldout[name]
        assert (found["rows"], found["tokens"]) == (heldout["rows"], heldout["supervised_tokens"])
        assert found["base"]["value"] == pytest.approx(base)
        assert found["tuned"]["low"] < found["tuned"]["value"] < found["tuned"]["high"]
        assert found["tuned"]["value"] == pytest.approx(tuned)
    bounds = gate.Thresholds(min_rows=1, min_supervised_tokens=1)
    assert gate.verdict(read(trained), bounds).passed


def test_record_says_where_each_setting_came_from(trained: Path) -> None:
    record = read(trained, "run.json")
    assert record["settings"]["MAX_STEPS"] == {"value": "8", "from": "hyperparameters.json"}
    assert record["settings"]["LORA_DROPOUT"]["from"] == "the card"
    assert FineTuneJob.from_hyperparameters({n: s["value"] for n, s in record["settings"].items()}).max_steps == 8
    assert record["versions"]["torch"] == torch.__version__


def test_log_lines_are_metrics(base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = tiny.lay_out(tmp_path / "ml", base, MAX_STEPS=2, WARMUP_STEPS=1, USD_PER_HOUR=36)
    assert train(root) == 0

    lines = capfd.readouterr().out.splitlines()
    parsed = [figures for line in lines if (figures := metrics.parse_line(line))]
    steps = [figures for figures in parsed if "loss" in figures]
    assert [figures["step"] for figures in steps] == [1, 2]
    for figures in steps:
        assert figures["usd_so_far"] == pytest.approx(36 * figures["hours_elapsed"], rel=1e-4)
        assert figures["hours_remaining"] >= 0
        assert figures["host_memory_gib"] > 0
    assert steps[1]["tokens"] > steps[0]["tokens"]
    assert parsed[0].keys() == {"base_heldout_loss"}
    assert parsed[-1].keys() == {"step", "heldout_loss"}
    assert any(line.startswith("MAX_STEPS: 2 (from hyperparameters.json)") for line in lines)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft 0.21.2
def test_adapter_gives_pefts_model_the_same_logits(trained: Path, base: Path) -> None:
    peft = pytest.importorskip("peft")

    ids = torch.tensor([[0, 5, 9, 40, 77, 120, 33, 61, 5, 200]])
    ours = transformers_model(base)
    switch = base_model.SwitchableAdapter(ours, adapter.read(trained / "model/adapter"))
    theirs = peft.PeftModel.from_pretrained(transformers_model(base), str(trained / "model/adapter"))
    with torch.no_grad():
        expected, off = theirs(input_ids=ids).logits, ours(input_ids=ids).logits
        with switch.on():
            tuned = ours(input_ids=ids).logits
        again = ours(input_ids=ids).logits

    torch.testing.assert_close(tuned, expected, rtol=1e-5, atol=1e-5)
    assert (tuned - off).abs().max() > 0.1  # and it is no adapter of zeros
    assert torch.equal(off, again)


def heldout_loss(llama: Any, base: Path) -> tuple[float, int, int]:
    """Of transformers' model: (loss, rows, supervised tokens), row by row, without the trainer's masks and packing."""
    tokenizer = ChatTokenizer(base)
    heldout = held_out.split(tiny.conversations(), 0.25, 0).heldout
    total, tokens = 0.0, 0
    for row in heldout:
        encoded = tokenizer.encode(render(row["messages"], row.get("tools")))
        labels = torch.tensor([[i if s else -100 for i, s in zip(encoded.ids, encoded.supervised, strict=True)]])
        count = int((labels != -100).sum())
        with torch.no_grad():
            total += llama(input_ids=torch.tensor([encoded.ids]), labels=labels, use_cache=False).loss.item() * count
        tokens += count
    return total / tokens, len(heldout), tokens


def test_held_out_losses_are_those_of_transformers(trained: Path, base: Path) -> None:
    llama = transformers_model(base)
    switch = base_model.SwitchableAdapter(llama, adapter.read(trained / "model/adapter"))
    base_loss, rows, tokens = heldout_loss(llama, base)
    with switch.on():
        tuned_loss, _, _ = heldout_loss(llama, base)

    found = read(trained)["heldout"]
    assert (found["rows"], found["supervised_tokens"]) == (rows, tokens)
    assert found["base_loss"] == pytest.approx(base_loss, rel=1e-5)
    assert found["tuned_loss"] == pytest.approx(tuned_loss, rel=1e-5)


def test_an_adapter_on_routed_experts_is_what_the_merged_model_computes(base: Path, tmp_path: Path) -> None:
    targets = "attention,shared_expert,routed_experts"
    root = tiny.lay_out(tmp_path / "ml", base, MAX_STEPS=4, LORA_TARGETS=targets, MODE="streamed")
    assert train(root) == 0
    merge(base, root / "model/adapter", tmp_path / "merged", dtype=None)
    tuned_loss, _, _ = heldout_loss(transformers_model(tmp_path / "merged"), base)
    llama = transformers_model(base)
    switch = base_model.SwitchableAdapter(llama, adapter.read(root / "model/adapter"))
    with switch.on():
        switched_loss, _, _ = heldout_loss(llama, base)
    assert switched_loss == pytest.approx(tuned_loss, rel=1e-5)
    found = read(root)["heldout"]
    assert found["tuned_loss"] == pytest.approx(tuned_loss, rel=1e-5)
    assert found["tuned_loss"] < 0.95 * found["base_loss"]


def test_a_quantised_base_trains_and_says_so(base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert quantize.main([str(base), str(tmp_path / "nf4")]) == 0
    root = tiny.lay_out(tmp_path / "ml", tmp_path / "nf4", MAX_STEPS=4)
    assert train(root) == 0
    assert "weights NF4" in capfd.readouterr().out
    plain, found = heldout_loss(transformers_model(base), base)[0], read(root)["heldout"]
    assert found["base_loss"] == pytest.approx(plain, rel=0.05)
    assert found["base_loss"] != pytest.approx(plain, rel=1e-6)
    assert found["tuned_loss"] < 0.95 * found["base_loss"]


def test_loss_is_the_mean_over_the_steps_tokens_however_they_are_batched(base: Path, tmp_path: Path) -> None:
    split = tiny.lay_out(tmp_path / "a", base, MAX_STEPS=3, WARMUP_STEPS=1, LORA_DROPOUT=0)
    whole = tiny.lay_out(
        tmp_path / "b",
        base,
        MAX_STEPS=3,
        WARMUP_STEPS=1,
        LORA_DROPOUT=0,
        PER_DEVICE_BATCH_SIZE=4,
        GRADIENT_ACCUMULATION_STEPS=1,
    )
    assert train(split) == train(whole) == 0
    for (_, one), (_, other) in zip(read(split)["loss_curve"], read(whole)["loss_curve"], strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_killed_and_resumed_it_trains_to_the_last_digit_as_if_unbroken(
    trained: Path, base: Path, tmp_path: Path
) -> None:
    root = tiny.lay_out(tmp_path / "ml", base, MAX_STEPS=8, EVAL_EVERY_STEPS=4, CHECKPOINT_MINUTES=1e-9)
    with start(root) as process:
        said = wait_for(process, "step=5 ")
        process.kill()
    assert [line.partition("=")[0] for line in said if "heldout_loss=" in line] == ["base_heldout_loss", "step"]
    assert any(line.startswith("step=4 heldout_loss=") for line in said)
    assert not (root / "model").exists()
    newest = max((root / "checkpoints").glob("*.safetensors"))
    # The newest may have been cut short on its way to S3.
    (root / "checkpoints/step-00000999.safetensors").write_bytes(newest.read_bytes()[:1000])

    assert train(root) == 0
    whole, resumed = read(trained), read(root)
    assert resumed["loss_curve"] == whole["loss_curve"]
    assert resumed["heldout"] == whole["heldout"]
    assert resumed["tokens_trained"] == whole["tokens_trained"]
    weights = [root_ / "model/adapter/adapter_model.safetensors" for root_ in (trained, root)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_sigterm_leaves_a_usable_adapter(base: Path, tmp_path: Path) -> None:
    root = tiny.lay_out(tmp_path / "ml", base, MAX_STEPS=100_000, EVAL_EVERY_STEPS=100_000)
    with start(root) as process:
        wait_for(process, "step=3 ")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 0

    found = read(root)
    assert (found["status"], found["stop_reason"]) == ("stopped_early", "sigterm")
    assert found["steps_planned"] == 100_000
    assert 3 <= found["steps_done"] < 100_000
    assert found["heldout"]["tuned_loss"] < found["heldout"]["base_loss"]
    assert not (root / "output/failure").exists()
    base_model.SwitchableAdapter(transformers_model(base), adapter.read(root / "model/adapter"))


def test_sigterm_is_heard_before_torch_is_loaded(base: Path, tmp_path: Path) -> None:
    """In a container Python is PID 1, which a signal without a handler does not reach."""
    root = tiny.lay_out(tmp_path / "ml", base)
    with start(root) as process:
        caught = 0
        while not caught >> (signal.SIGTERM - 1) & 1:
            assert process.poll() is None
            status = Path(f"/proc/{process.pid}/status").read_text()
            caught = int(status.partition("SigCgt:")[2].split()[0], 16)
        assert "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text()
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 1, said
    assert "a request to stop came before training began" in (root / "output/failure").read_text()
    assert "trained parameters" not in said, "no time is spent on loading the model"
    assert "Traceback" not in said


def signal_before(place: object, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have SIGTERM come when this function or method of `place` is about to be called."""

    def do(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments, **options)

    original = getattr(place, name)
    monkeypatch.setattr(place, name, do)


def test_sigterm_before_the_first_step_says_that_none_was_trained(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tiny.lay_out(tmp_path / "ml", base)
    signal_before(Run, "evaluate_base", monkeypatch)
    assert train(root) == 1
    assert "not one step was trained: a request to stop came before it" in (root / "output/failure").read_text()


def test_sigterm_while_the_model_loads_loses_no_earlier_run(
    trained: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tiny.lay_out(tmp_path / "ml", base, MAX_STEPS=8, EVAL_EVERY_STEPS=4)
    shutil.copytree(trained / "checkpoints", root / "checkpoints", dirs_exist_ok=True)
    signal_before(loading, "load", monkeypatch)
    assert train(root) == 0
    assert (root / "model/adapter/adapter_model.safetensors").read_bytes() == (
        trained / "model/adapter/adapter_model.safetensors"
    ).read_bytes()


def test_sigterm_within_an_evaluation_saves_the_steps_before_it_goes_on(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tiny.lay_out(tmp_path / "ml", base, MAX_STEPS=8, EVAL_EVERY_STEPS=4)
    events: list[str] = []

    def run_layer(x: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        if events:
            events.append("layer")
        return layer.run_layer(x, *arguments, **options)

    def evaluate(run: Run) -> None:
        if not events:
            events.append("evaluation")
            os.kill(os.getpid(), signal.SIGTERM)
        evaluate_tuned(run)

    def save_adapter(run: Run, folder: Path) -> None:
        events.append("adapter")
        save(run, folder)

    evaluate_tuned, save = Run.evaluate_tuned, Run.save_adapter
    monkeypatch.setattr("training_code.llama.run_layer", run_layer)
    monkeypatch.setattr(Run, "evaluate_tuned", evaluate)
    monkeypatch.setattr(Run, "save_adapter", save_adapter)
    assert train(root) == 0
    assert events[:2] == ["evaluation", "adapter"], "no layer in between"
    assert events.count("layer") == 4, "the last evaluation, in what is left of the grace"
    found = read(root)
    assert (found["stop_reason"], found["steps_done"]) == ("sigterm", 4)
    assert found["heldout"]["tuned_loss"] is not None


@dataclass
class Watch:
    """Time that passes by work alone: 3 s a step, 5 s an evaluation, 1 s a checkpoint."""

    now: float

    def __call__(self) -> float:
        return self.now

    def taking(self, seconds: float, work: Callable[..., Any]) -> Callable[..., Any]:
        def do(*arguments: Any, **options: Any) -> Any:
            self.now += seconds
            return work(*arguments, **options)

        return do


def train_by(root: Path, *, started_before: float) -> float:
    """Run the job; seconds from its start to its end, by its own clock."""
    watch = Watch(started_before)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Clock, "of_process", lambda: Clock(limit_seconds=math.inf, now=watch, started=0.0))
        patched.setattr("training_code.run.time", SimpleNamespace(monotonic=watch))
        patched.setattr("training_code.run.train_step", watch.taking(3, step.train_step))
        patched.setattr(Llama, "losses", watch.taking(5, Llama.losses))
        patched.setattr(checkpoint, "save", watch.taking(1, checkpoint.save))
        assert train(root) == 0
    return watch.now


def test_no_step_begins_that_would_end_after_the_limit(base: Path, tmp_path: Path) -> None:
    root = tiny.lay_out(tmp_path / "ml", base, MAX_STEPS=100_000, MAX_RUNTIME_SECONDS=100)
    # Base model and checkpoint, steps, checkpoint and tuned model. Of the 95 s that are not the upload's 11 are left
    # after 26 steps; a step, saving, evaluation and the rest are expected to take 3.3 + 2 + 6.5 + 2.
    assert train_by(root, started_before=0) == 5 + 1 + 26 * 3 + 1 + 5
    found = read(root)
    assert (found["status"], found["stop_reason"], found["steps_done"]) == ("stopped_early", "max_runtime", 26)
    assert found["heldout"]["tuned_loss"] is not None


def test_a_resumed_run_keeps_time_free_for_its_end(base: Path, tmp_path: Path) -> None:
    root = tiny.lay_out(tmp_path / "ml", base, MAX_STEPS=100_000, MAX_RUNTIME_SECONDS=100)
    train_by(root, started_before=70)
    before = read(root)["steps_done"]
    # What they take is known from before: no step is tried that has no time.
    assert train_by(root, started_before=82) == 82 + 1 + 1 + 5
    assert read(root)["steps_done"] == before > 0
    assert read(root)["heldout"]["tuned_loss"] is not None
    assert train_by(root, started_before=76) == 76 + 1 + 2 * 3 + 1 + 5
    assert read(root)["steps_done"] == before + 2


def test_rows_over_max_length_are_left_out_and_counted(base: Path, tmp_path: Path) -> None:
    rows = tiny.conversations(12)
    long = {"messages": [{"role": "user", "content": "puck " * 900}, {"role": "assistant", "content": "yes"}]}
    root = tiny.lay_out(tmp_path / "ml", base, rows=[*rows, long], MAX_STEPS=1, WARMUP_STEPS=0)
    assert train(root) == 0

    counted = read(root)["rows"]
    assert counted["over_long"] == 1
    assert counted["training"] + counted["heldout"] == 12


def test_a_heldout_channel_is_used_but_for_what_was_trained_on(base: Path, tmp_path: Path) -> None:
    root = tiny.lay_out(tmp_path / "ml", base, rows=tiny.conversations(8), MAX_STEPS=1, WARMUP_STEPS=0)
    (root / "input/data/heldout").mkdir()
    lines = (json.dumps(row) + "\n" for row in tiny.conversations(13)[7:])
    (root / "input/data/heldout/more.jsonl").write_text("".join(lines))
    assert train(root) == 0
    assert read(root)["rows"] == {"training": 8, "heldout": 5, "over_long": 0, "near_repeats": 1}


def test_training_defaults_of_the_base_yield_to_hyperparameters(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    for file in base.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "training_defaults.json").write_text('{"MAX_STEPS": "9", "LORA_R": "2", "SEED": "3"}')
    root = tiny.lay_out(tmp_path / "ml", folder, MAX_STEPS=1, WARMUP_STEPS=0, sagemaker_program="x")
    assert train(root) == 0

    used = read(root, "run.json")["settings"]
    assert used["MAX_STEPS"]["value"] == "1"
    assert used["SEED"] == {"value": "3", "from": "training_defaults.json"}


def test_a_file_system_without_locks_is_not_another_job(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tiny.lay_out(tmp_path / "ml", base, MAX_STEPS=1, WARMUP_STEPS=0)
    monkeypatch.setattr("fcntl.flock", raising(OSError(errno.ENOLCK, "No locks available")))
    assert train(root) == 0
    monkeypatch.setattr("fcntl.flock", raising(OSError(errno.EIO, "Input/output error")))
    assert train(root) == 1
    assert "Input/output error" in (root / "output/failure").read_text()


def raising(error: Exception) -> Callable[..., None]:
    def do(*_: object) -> None:
        raise error

    return do


def test_the_lock_ends_with_its_holder(base: Path, tmp_path: Path) -> None:
    root = tiny.lay_out(tmp_path / "ml", base, MAX_STEPS=1, WARMUP_STEPS=0)
    with only_process_in(root / "checkpoints"):
        assert train(root) == 1
    assert "another process of this machine is writing to" in (root / "output/failure").read_text()
    assert train(root) == 0
