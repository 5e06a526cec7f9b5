"""Every way that a job fails for a reason its owner can mend: exit status 1, one sentence, no traceback."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from heartbeat.scout import SCOUT
from tests.training import meta, tiny
from tests.training.test_train import read, train
from training_code import checkpoint, device, layer, placing, quantize, shortage
from training_code.architecture import Architecture
from training_code.environment import Environment, write_json
from training_code.errors import TrainingError
from training_code.llama import Llama
from training_code.lora_weights import LoraWeights
from training_code.run import Run


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def rows(root: Path, *found: object) -> None:
    (root / "input/data/training/chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))


def no_dataset(root: Path) -> None:
    (root / "input/data/training/chat.jsonl").rename(root / "input/data/training/chat.txt")


def broken_row(root: Path) -> None:
    with (root / "input/data/training/chat.jsonl").open("a") as file:
        file.write("{oops\n")


def empty_dataset(root: Path) -> None:
    rows(root)


def nothing_supervised(root: Path) -> None:
    said = {"role": "assistant", "content": "hello", "weight": 0}
    rows(root, {"messages": [{"role": "user", "content": "hi"}, said]})


def all_over_long(root: Path) -> None:
    answer = {"role": "assistant", "content": "puck " * 900}
    rows(root, *({"messages": [{"role": "user", "content": f"{i}?"}, answer]} for i in range(9)))


def another_architecture(root: Path) -> None:
    edit(root / "base/config.json", model_type="llama")


def two_experts_a_token(root: Path) -> None:
    edit(root / "base/config.json", num_experts_per_tok=2)


def no_config(root: Path) -> None:
    (root / "base/config.json").unlink()


def cut_weights(root: Path) -> None:
    path = root / "base/model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def rubbish_weights(root: Path) -> None:
    (root / "base/model.safetensors").write_bytes(b"<Error>AccessDenied</Error>")


def no_weights(root: Path) -> None:
    (root / "base/model.safetensors").unlink()


def missing_shard(root: Path) -> None:
    index = {"weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}}
    (root / "base/model.safetensors.index.json").write_text(json.dumps(index))


def missing_tensor(root: Path) -> None:
    change_weights(root, lambda weights: weights.pop("model.norm.weight"))


def strange_tensor(root: Path) -> None:
    change_weights(root, lambda weights: weights.update({"model.layers.9.extra": torch.zeros(2)}))


def wrong_shape(root: Path) -> None:
    change_weights(root, lambda weights: weights.update({"model.norm.weight": torch.ones(65)}))


def not_a_number(root: Path) -> None:
    change_weights(root, lambda weights: weights["lm_head.weight"].fill_(float("nan")))


def change_weights(root: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = load_file(root / "base/model.safetensors")
    weights = {name: tensor.clone() for name, tensor in weights.items()}
    change(weights)
    save_file(weights, root / "base/model.safetensors")


def no_tokenizer(root: Path) -> None:
    (root / "base/tokenizer.json").unlink()


def another_tokenizer(root: Path) -> None:
    path = root / "base/tokenizer.json"
    path.write_text(path.read_text().replace("<|header_start|>", "<|start_header_id|>"))


def misspelt_setting(root: Path) -> None:
    edit(root / "input/config/hyperparameters.json", LEARNING_RAT="1e-4")


def bad_value(root: Path) -> None:
    edit(root / "input/config/hyperparameters.json", MAX_STEPS="0")


def huge_learning_rate(root: Path) -> None:
    edit(root / "input/config/hyperparameters.json", LEARNING_RATE="1e30")


def sharded_alone(root: Path) -> None:
    edit(root / "input/config/hyperparameters.json", MODE="sharded")


def broken_hyperparameters(root: Path) -> None:
    (root / "input/config/hyperparameters.json").write_text("[]")


def lost_host(root: Path) -> None:
    (root / "input/config/resourceconfig.json").write_text('{"current_host": "x", "hosts": ["algo-1", "algo-2"]}')


def held_out_copies(root: Path) -> None:
    (root / "input/data/heldout").mkdir()
    (root / "input/data/heldout/own.jsonl").write_bytes((root / "input/data/training/chat.jsonl").read_bytes())


def no_time(root: Path) -> None:
    edit(root / "input/config/hyperparameters.json", MAX_RUNTIME_SECONDS="1")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (no_dataset, "holds no .jsonl file; put the dataset there"),
        (broken_row, "chat.jsonl: line 25: is not JSON"),
        (empty_dataset, "no row is left to train on"),
        (held_out_copies, "no row of own.jsonl is left to judge by: 24 of 24 nearly repeat training rows"),
        (nothing_supervised, "chat.jsonl: line 1: has weight 0 on every assistant turn"),
        (all_over_long, "every training row is longer than MAX_LENGTH=512"),
        (another_architecture, "describes a model of type 'llama'; this trainer trains Llama 4 only"),
        (two_experts_a_token, "num_experts_per_tok=2 must be 1"),
        (no_config, "config.json is missing: the `model` channel must hold"),
        (cut_weights, "model.safetensors is not a whole safetensors file"),
        (rubbish_weights, "model.safetensors is not a whole safetensors file"),
        (no_weights, "lacks *.safetensors; copy the whole checkpoint folder"),
        (missing_shard, "lacks model-00002-of-00002.safetensors"),
        (missing_tensor, "has no tensor model.norm.weight"),
        (strange_tensor, "has a tensor model.layers.9.extra that its config.json does not call for"),
        (wrong_shape, "model.norm.weight has shape (65,); config.json calls for (64,)"),
        (not_a_number, "the held-out loss is nan: the base model's weights are damaged"),
        (no_tokenizer, "tokenizer.json is missing"),
        (another_tokenizer, "has no token <|header_start|>; it is not a Llama 4 tokenizer"),
        (misspelt_setting, "LEARNING_RAT is not a setting; did you mean LEARNING_RATE?"),
        (bad_value, "MAX_STEPS=0 must be at least 1"),
        (huge_learning_rate, "LEARNING_RATE=1e30 must be at most 1"),
        (sharded_alone, "MODE=sharded needs several GPUs, and this job has 1"),
        (broken_hyperparameters, "hyperparameters.json must hold a JSON object"),
        (lost_host, "current_host='x' is not among hosts=['algo-1', 'algo-2']"),
        (no_time, "not one step was trained: MAX_RUNTIME_SECONDS=1 left no time"),
    ],
)
def test_says_why_in_one_sentence(
    spoil: Callable[[Path], None], said: str, base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    copied = tmp_path / "ml/base"
    copied.mkdir(parents=True)
    for file in base.iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    root = tiny.lay_out(tmp_path / "ml", copied, MAX_STEPS=1, WARMUP_STEPS=0)
    spoil(root)

    assert train(root) == 1
    sentence = (root / "output/failure").read_text()
    assert said in sentence
    assert "\n" not in sentence
    assert "Traceback" not in capfd.readouterr().err
    assert not (root / "model/adapter").exists()


def test_loss_that_is_no_number_changes_no_weight(base: Path, tmp_path: Path) -> None:
    """Without held-out rows the first to see the damage is the step."""
    copied = tmp_path / "ml/base"
    copied.mkdir(parents=True)
    for file in base.iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    root = tiny.lay_out(tmp_path / "ml", copied, HELD_OUT_FRACTION=0)
    not_a_number(root)
    assert train(root) == 1
    assert (root / "output/failure").read_text().startswith("the loss became nan: lower LEARNING_RATE")


def test_loss_that_becomes_no_number_leaves_the_last_checkpoint_to_resume_from(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    whole, root = (tiny.lay_out(tmp_path / name, base, CHECKPOINT_MINUTES=1e-9) for name in ("whole", "ml"))
    assert train(whole) == 0
    steps: list[int] = []

    def step(run: Run) -> None:
        steps.append(run.progress.step)
        one_step(run)

    def run_layer(x: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        return layer.run_layer(x * float("nan") if steps[-1:] == [3] else x, *arguments, **options)

    one_step = Run.step
    with monkeypatch.context() as patched:
        patched.setattr(Run, "step", step)
        patched.setattr("training_code.llama.run_layer", run_layer)
        assert train(root) == 1
    assert (root / "output/failure").read_text().startswith("the loss became nan: lower LEARNING_RATE")
    assert "Traceback" not in capfd.readouterr().err
    kept = [f"step-0000000{step}.safetensors" for step in (2, 3)]
    assert sorted(path.name for path in (root / "checkpoints").glob("step-*")) == kept
    assert not (root / "model/adapter").exists()

    assert train(root) == 0
    assert "resuming after step 3 of 6" in capfd.readouterr().out
    assert read(root)["loss_curve"] == read(whole)["loss_curve"]


@contextmanager
def in_f16_with_overflows(at: Container[int]) -> Iterator[None]:
    """Jobs compute in f16; the gradients of these steps (counted from 0) are infinite."""

    def step(run: Run) -> None:
        before = run.llama.lora.flat.detach().clone()
        poisoned.append(run.progress.step in at)
        one_step(run)
        assert torch.equal(before, run.llama.lora.flat) == poisoned.pop()

    def gradient(llama: Llama, *arguments: Any, **options: Any) -> Any:
        found = accumulate(llama, *arguments, **options)
        if poisoned[-1]:
            llama.lora.gradient[3] = float("inf")
        return found

    poisoned: list[bool] = []
    one_step, accumulate = Run.step, Llama.accumulate
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(device, "compute_dtype", lambda _: torch.float16)
        patched.setattr(Run, "step", step)
        patched.setattr(Llama, "accumulate", gradient)
        yield


def test_in_f16_a_step_that_overflows_is_skipped(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    whole, broken = (tiny.lay_out(tmp_path / name, base, LEARNING_RATE=1e-3) for name in ("whole", "broken"))

    def three_steps(run: Run) -> None:
        while run.progress.step < 3:
            run.step()

    with in_f16_with_overflows({0, 2}):
        assert train(whole) == 0
        out = capfd.readouterr().out
        assert out.count("passed f16's range; no weight was changed") == 2
        monkeypatch.setattr(Run, "train", three_steps)
        assert train(broken) == 0
        monkeypatch.undo()
        assert train(broken) == 0
    assert read(whole)["steps_done"] == 6
    assert read(broken)["loss_curve"] == read(whole)["loss_curve"]
    weights = [root / "model/adapter/adapter_model.safetensors" for root in (whole, broken)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.parametrize("name", ["layer-002.safetensors", "embedding.safetensors", "head.safetensors"])
def test_a_pack_with_one_flipped_bit_is_named_before_anything_is_written(
    name: str, nf4: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(nf4, tmp_path / "nf4")
    a_byte_flipped(tmp_path / "nf4" / name)
    root = tiny.lay_out(tmp_path / "ml", tmp_path / "nf4", MAX_STEPS=1, WARMUP_STEPS=0)
    assert train(root) == 1
    assert f"{name} is damaged: its SHA-256 is not the one in nf4.json" in (root / "output/failure").read_text()
    assert "Traceback" not in capfd.readouterr().err
    assert list((root / "checkpoints").iterdir()) == []
    assert not (root / "model").exists()
    shutil.copy(nf4 / name, tmp_path / "nf4" / name)
    assert train(root) == 0


@pytest.fixture(scope="module")
def nf4(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantised") / "nf4"
    assert quantize.main([str(base), str(folder)]) == 0
    return folder


def test_steps_that_overflow_one_after_the_other_end_the_job(
    base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = tiny.lay_out(tmp_path / "ml", base, MAX_STEPS=20)
    with in_f16_with_overflows(range(1, 20)):
        assert train(root) == 1
    sentence = (root / "output/failure").read_text()
    assert sentence.startswith("5 steps in a row passed f16's range: lower LEARNING_RATE=0.005 or choose an instance")
    assert "step=6 " in capfd.readouterr().out


def test_a_disk_that_takes_no_more_leaves_the_last_checkpoint_whole(
    base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = tiny.lay_out(tmp_path / "ml", base, CHECKPOINT_MINUTES=1e-9)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The first checkpoint has no optimizer yet, 53 kB; the next one 160 kB.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        assert train(root) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    sentence = (root / "output/failure").read_text()
    assert "step-00000001.safetensors (0.0 GiB) cannot be written" in sentence
    assert "VolumeSizeInGB" in sentence
    assert "Traceback" not in capfd.readouterr().err
    assert [path.name for path in (root / "checkpoints").glob("step-*")] == ["step-00000000.safetensors"]
    assert train(root) == 0
    assert read(root)["steps_done"] == 6


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of its own, of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_without_a_free_byte_still_takes_the_sentence(
    small_disk: Path, base: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    root = tiny.lay_out(small_disk / "ml", base)

    def fill(run: Run) -> None:
        with (run.checkpoints / "ballast").open("wb", buffering=0) as file, suppress(OSError):
            while file.write(b"x" * 4096):
                pass
        write_json(root / "model/metrics.json", {"a": "b" * 5000})

    monkeypatch.setattr(Run, "train", fill)
    assert train(root) == 1
    assert (root / "output/failure").read_text().startswith("the disk is full: [Errno 28] No space left on device")
    assert "Traceback" not in capfd.readouterr().err
    assert not list(root.rglob("*.partial"))
    # The next attempt says something shorter, on the disk that is still full.
    (root / "input/data/model").unlink()
    assert train(root) == 1
    assert "model/config.json is missing" in (root / "output/failure").read_text()
    assert [path.name for path in (root / "output").iterdir()] == ["failure"]


def test_a_quota_that_is_used_up_is_a_full_disk(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    root = tiny.lay_out(tmp_path / "ml", base)

    def fail(*_: object) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr("training_code.train.train", fail)
    assert train(root) == 1
    assert (root / "output/failure").read_text().startswith("the disk is full: ")
    assert "Traceback" not in capfd.readouterr().err


def test_of_several_that_fail_the_first_is_heard(tmp_path: Path) -> None:
    environment = Environment(tmp_path)
    with environment.ready_to_fail():
        for sentence in ("the first", "the second, which is longer"):
            assert environment.fail(sentence) == 1
    assert environment.failure.read_text() == "the first"
    with environment.ready_to_fail():
        assert not environment.failure.exists()
    assert list(environment.failure.parent.iterdir()) == []


def test_a_gpu_with_less_memory_than_planned_goes_on_with_smaller_micro_batches(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    job: dict[str, Any] = {"MAX_LENGTH": 160, "LORA_DROPOUT": 0, "EVAL_EVERY_STEPS": 2}
    small, large = (
        tiny.lay_out(tmp_path / name, base, PER_DEVICE_BATCH_SIZE=size, GRADIENT_ACCUMULATION_STEPS=4 // size, **job)
        for name, size in (("small", 1), ("large", 4))
    )
    assert train(small) == 0
    capfd.readouterr()

    errors = iter(
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        )
    )

    def run_layer(x: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        if x.requires_grad and len(x) > 160:
            raise next(errors)
        return layer.run_layer(x, *arguments, **options)

    monkeypatch.setattr("training_code.llama.run_layer", run_layer)
    assert train(large) == 0
    out = capfd.readouterr().out
    assert "out of GPU memory with micro-batches of 640 tokens; going on with 480" in out
    assert "out of GPU memory with micro-batches of 480 tokens; going on with 160" in out
    assert out.count("out of GPU memory") == 2
    for (step, loss), (same, expected) in zip(read(large)["loss_curve"], read(small)["loss_curve"], strict=True):
        assert (step, loss) == (same, pytest.approx(expected, rel=1e-5))


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
            "out of GPU memory: set MODE=streamed, lower MAX_LENGTH",
        ),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            "out of GPU memory: set MODE=streamed, lower MAX_LENGTH",
        ),
        (MemoryError("0.1 GiB of host memory cannot be page-locked"), "out of host memory: lower MAX_LENGTH"),
        (None, "out of host memory: lower MAX_LENGTH, or choose an instance with more; [enforce fail at alloc_cpu.cpp"),
    ],
    ids=["GPU", "GPU's library", "pinned host", "host"],
)
def test_memory_that_runs_out_within_a_step(
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    error: Exception | None,
    sentence: str,
) -> None:
    root = tiny.lay_out(tmp_path / "ml", base, CHECKPOINT_MINUTES=1e-9)
    layers = iter(range(26))

    def run_layer(*arguments: Any, **options: Any) -> Any:
        if next(layers, None) is None:
            if error is None:
                torch.empty(2**60, dtype=torch.uint8)  # what torch itself raises
                raise AssertionError
            raise error
        return layer.run_layer(*arguments, **options)

    monkeypatch.setattr("training_code.llama.run_layer", run_layer)
    assert train(root) == 1
    assert (root / "output/failure").read_text().startswith(sentence)
    assert "Traceback" not in capfd.readouterr().err
    monkeypatch.undo()
    assert train(root) == 0
    assert "resuming after step" in capfd.readouterr().out


def test_a_checkpoint_of_another_run_is_not_resumed(base: Path, tmp_path: Path) -> None:
    root = tiny.lay_out(tmp_path / "ml", base, MAX_STEPS=1, WARMUP_STEPS=0)
    assert train(root) == 0
    edit(root / "input/config/hyperparameters.json", LEARNING_RATE="1e-3")
    assert train(root) == 1
    sentence = (root / "output/failure").read_text()
    assert "holds a checkpoint of another run (LEARNING_RATE was 0.005, and is 0.001)" in sentence


def test_a_run_is_not_resumed_on_other_held_out_rows_or_weights(base: Path, tmp_path: Path) -> None:
    root = tiny.lay_out(tmp_path / "ml", base, MAX_STEPS=1, WARMUP_STEPS=0)
    heldout = root / "input/data/heldout/chat.jsonl"
    heldout.parent.mkdir()
    lines = [json.dumps(row) + "\n" for row in tiny.conversations(30)[24:]]
    heldout.write_text("".join(lines))
    assert train(root) == 0
    heldout.write_text("".join(lines[1:]))
    assert train(root) == 1
    assert "holds a checkpoint of another run (heldout_sha256 was " in (root / "output/failure").read_text()

    heldout.write_text("".join(lines))
    assert quantize.main([str(base), str(tmp_path / "nf4")]) == 0
    (root / "input/data/model").unlink()
    (root / "input/data/model").symlink_to(tmp_path / "nf4")
    assert train(root) == 1
    sentence = (root / "output/failure").read_text()
    assert "(base_weights_sha256 was " in sentence
    assert "; weight_format was bf16, and is nf4)" in sentence


def a_byte_flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def rubbish(path: Path) -> None:
    path.write_bytes(b"<Error>AccessDenied</Error>")


@pytest.mark.parametrize("damage", [a_byte_flipped, cut_short, rubbish])
def test_a_damaged_checkpoint_makes_room_for_a_whole_one(
    damage: Callable[[Path], None], base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = tiny.lay_out(tmp_path / "ml", base, CHECKPOINT_MINUTES=1e-9)
    assert train(root) == 0
    folder, whole = root / "checkpoints", read(root)
    half = folder / "step-00000009.safetensors.partial"
    half.write_bytes(b"half a fi")
    kept = [folder / f"step-0000000{step}.safetensors" for step in (5, 6)]
    assert sorted(folder.glob("step-*")) == [*kept, half]
    damage(kept[1])
    kept[1].rename(folder / "step-00000009.safetensors")

    assert train(root) == 0
    assert "step-00000009.safetensors is not whole" in capfd.readouterr().out
    assert sorted(folder.glob("step-*")) == kept
    assert read(root)["loss_curve"] == whole["loss_curve"]


def test_a_checkpoint_of_another_version_is_told_from_a_damaged_one(base: Path, tmp_path: Path) -> None:
    root = tiny.lay_out(tmp_path / "ml", base)
    (root / "checkpoints").mkdir()
    foreign = root / "checkpoints/step-00000003.safetensors"
    save_file({"a": torch.zeros(2)}, foreign)
    assert train(root) == 1
    sentence = (root / "output/failure").read_text()
    assert sentence.startswith(f"{foreign} was not written by this version of the trainer ('progress')")
    assert foreign.exists()


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    def fsync(descriptor: int) -> None:
        events.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")

    def replace(path: Path, target: Path) -> None:
        events.append(f"name {target.name}")
        os.replace(path, target)

    root = tiny.lay_out(tmp_path / "ml", base, MAX_STEPS=1, WARMUP_STEPS=0)
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    assert train(root) == 0
    name = "step-00000001.safetensors"
    at = events.index(f"name {name}")
    assert events[at - 1 : at + 2] == [f"sync {name}.partial", f"name {name}", "sync checkpoints"]


def test_a_resumed_run_has_the_micro_batches_that_it_had(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout draws by micro-batch: with the larger ones that this GPU promised, it would be another run."""
    job: dict[str, Any] = {
        "MAX_LENGTH": 160,
        "PER_DEVICE_BATCH_SIZE": 4,
        "GRADIENT_ACCUMULATION_STEPS": 1,
        "EVAL_EVERY_STEPS": 100,
    }
    whole, broken = (tiny.lay_out(tmp_path / name, base, **job) for name in ("whole", "broken"))

    def run_layer(x: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        if x.requires_grad and len(x) > 160:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return layer.run_layer(x, *arguments, **options)

    def three_steps(run: Run) -> None:
        while run.progress.step < 3:
            run.step()

    with monkeypatch.context() as patched:
        patched.setattr("training_code.llama.run_layer", run_layer)
        assert train(whole) == 0
        patched.setattr(Run, "train", three_steps)
        assert train(broken) == 0
    assert train(broken) == 0
    assert read(broken)["loss_curve"] == read(whole)["loss_curve"]
    assert len(read(whole)["loss_curve"]) == 6


def test_a_model_larger_than_memory_is_refused_with_the_sizes() -> None:
    with pytest.raises(TrainingError, match=r"107.8 B parameters, 401.5 GiB here, and \d+.\d GiB of memory are free"):
        placing.require_host_memory(SCOUT, 4 * SCOUT.text_parameters)


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    architecture = Architecture.from_config(meta.load("rope").config)
    lora = LoraWeights(architecture, ["attention"], rank=1, alpha=1, dropout=0, seed=0, device=torch.device("cpu"))
    optimizer = torch.optim.AdamW([lora.flat])
    for step in range(1, 5):
        checkpoint.save(tmp_path, checkpoint.Progress(step=step), lora, optimizer, {}, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-00000003.safetensors",
        "step-00000004.safetensors",
    ]


def test_a_rank_that_falls_with_another_adds_no_traceback(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    root = tiny.lay_out(tmp_path / "ml", base)

    def lose_the_network(environment: Environment, *_: object) -> None:
        environment.fail("why the first rank failed")
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr("training_code.train.train", lose_the_network)
    assert train(root) == 1
    assert (root / "output/failure").read_text() == "why the first rank failed"
    assert "Traceback" not in capfd.readouterr().err


def test_an_error_of_another_kind_is_not_taken_for_memory() -> None:
    for error in (RuntimeError("Connection closed by peer"), ValueError("DefaultCPUAllocator"), KeyError("x")):
        assert not shortage.is_of_gpu(error)
        assert not shortage.is_of_host(error)
