"""Every way that a job fails for a reason its owner can mend: exit status 1, one sentence, no traceback."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from heartbeat.scout import SCOUT
from tests.training import meta, tiny
from tests.training.test_train import read, train
from training_code import adapter, checkpoint, layer, placing
from training_code.architecture import Architecture
from training_code.environment import Environment
from training_code.errors import TrainingError
from training_code.lora_weights import LoraWeights


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

    def run_layer(x: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        if x.requires_grad and len(x) > 160:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
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
        (MemoryError("0.1 GiB of host memory cannot be page-locked"), "out of host memory: lower MAX_LENGTH"),
    ],
    ids=["GPU", "host"],
)
def test_memory_that_runs_out_within_a_step(
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    error: Exception,
    sentence: str,
) -> None:
    root = tiny.lay_out(tmp_path / "ml", base, CHECKPOINT_MINUTES=1e-9)
    layers = iter(range(26))

    def run_layer(*arguments: Any, **options: Any) -> Any:
        if next(layers, None) is None:
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


def test_a_model_larger_than_memory_is_refused_with_the_sizes() -> None:
    with pytest.raises(TrainingError, match=r"107.8 B parameters, 401.5 GiB here, and \d+.\d GiB of memory are free"):
        placing.require_host_memory(SCOUT, 4 * SCOUT.text_parameters)


@pytest.mark.parametrize(
    "key",
    [
        "base_model.model.language_model.model.layers.0.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.0.feed_forward.router.lora_A.weight",
        "base_model.model.model.layers.0.feed_forward.experts.gate_up_proj.lora_A.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight",
        "model.layers.0.self_attn.q_proj.lora_A.weight",
    ],
)
def test_adapter_keys_that_vllm_would_ignore_are_refused(key: str) -> None:
    good = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    adapter.check_keys([good.format("A"), good.format("B")])
    with pytest.raises(TrainingError, match="has no form that vLLM loads"):
        adapter.check_keys([good.format("A"), good.format("B"), key])
    with pytest.raises(TrainingError, match="has no lora_B beside it"):
        adapter.check_keys([good.format("A")])


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    architecture = Architecture.from_config(meta.load("rope").config)
    lora = LoraWeights(architecture, ["attention"], rank=1, alpha=1, dropout=0, seed=0, device=torch.device("cpu"))
    optimizer = torch.optim.AdamW([lora.flat])
    for step in range(1, 5):
        checkpoint.save(tmp_path, checkpoint.Progress(step=step), lora, optimizer, {})
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
