"""A merged checkpoint is the base with the adapter in it, in the base's own files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from heartbeat.scout import ModelShape
from tests.training import checkpoints
from training_code import adapter, fp8, merge, packs, quantize
from training_code.base_files import open_base
from training_code.lora_weights import LoraWeights

RANK, ALPHA = 3, 12
TARGETS = ("attention", "shared_expert", "routed_experts")
IDS = torch.tensor([[0, 5, 9, 40, 77, 3, 33, 61, 5, 20]])


def write_adapter(folder: Path, base: Path, targets: tuple[str, ...] = TARGETS) -> LoraWeights:
    """A random one, large enough to be seen."""
    architecture = open_base(base).architecture
    lora = LoraWeights(architecture, targets, rank=RANK, alpha=ALPHA, dropout=0.0, seed=0, device=torch.device("cpu"))
    lora.flat.data.copy_(torch.randn(lora.flat.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    adapter.save(folder, lora, architecture, targets=targets, rank=RANK, alpha=ALPHA, dropout=0.0)
    return lora


def adapted(weights: dict[str, torch.Tensor], lora: LoraWeights) -> dict[str, torch.Tensor]:
    """float32 weights with the adapter added, from the trainer's own tensors rather than from its files."""
    found = {name: tensor.float().clone() for name, tensor in weights.items()}
    for matrix in lora.matrices():
        update = (matrix.lora_b @ matrix.lora_a).detach() * ALPHA / RANK
        layer, _, part = matrix.name.rpartition(".")
        if update.ndim == 2:
            found[matrix.name + ".weight"] += update
            continue
        stack = found[f"{layer}.{'down_proj' if part == 'down_proj' else 'gate_up_proj'}"]
        width = update.shape[1]
        columns = {"gate_proj": slice(0, width), "up_proj": slice(width, None), "down_proj": slice(None)}[part]
        stack[:, :, columns] += update.transpose(1, 2)
    return found


def read_all(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def text_only(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = {name.removeprefix("language_model."): tensor for name, tensor in weights.items()}
    return {name: tensor for name, tensor in found.items() if name not in checkpoints.VISION}


def logits(folder: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


def run(*arguments: object) -> int:
    return merge.main([str(argument) for argument in arguments])


# --- what comes out


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft 0.21.2
def test_gives_the_logits_of_base_and_adapter_together(base: Path, tmp_path: Path) -> None:
    import peft

    write_adapter(tmp_path / "adapter", base, ("attention", "shared_expert"))
    assert run(base, tmp_path / "adapter", tmp_path / "merged") == 0
    model = AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.float32)
    with torch.no_grad():
        off = model(input_ids=IDS).logits
        expected = peft.PeftModel.from_pretrained(model, str(tmp_path / "adapter"))(input_ids=IDS).logits
    found = logits(tmp_path / "merged")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (found - off).abs().max() > 0.1

    assert run(base, tmp_path / "adapter", tmp_path / "bf16", "--dtype", "bf16") == 0
    assert (logits(tmp_path / "bf16") - expected).abs().mean() < 0.02 * expected.abs().mean()


@pytest.mark.parametrize("num_shards", [1, 3])
@pytest.mark.parametrize("multimodal", [False, True])
@pytest.mark.parametrize("step", [1, 2])
def test_keeps_the_files_layout_and_adds_every_matrix(
    num_shards: int, multimodal: bool, step: int, tmp_path: Path
) -> None:
    text = {**checkpoints.TEXT, "interleave_moe_layer_step": step}
    source = tmp_path / "base"
    weights = checkpoints.write(source, text=text, multimodal=multimodal, num_shards=num_shards)
    lora = write_adapter(tmp_path / "adapter", source)
    assert run(source, tmp_path / "adapter", tmp_path / "merged") == 0

    assert {f.name for f in (tmp_path / "merged").iterdir()} == {f.name for f in source.iterdir()}
    for shard in source.glob("*.safetensors"):
        before, after = packs.read_header(shard)[0], packs.read_header(tmp_path / "merged" / shard.name)[0]
        assert before == after, "same keys, types, shapes and places"
    for name in ("config.json", "tokenizer.json", "model.safetensors.index.json"):
        if (source / name).exists():
            assert json.loads((tmp_path / "merged" / name).read_text()) == json.loads((source / name).read_text())
    found = read_all(tmp_path / "merged")
    for name, tensor in (checkpoints.VISION if multimodal else {}).items():
        assert torch.equal(found[name], tensor)
    for name, tensor in adapted(weights, lora).items():
        assert torch.equal(text_only(found)[name], tensor.bfloat16()), name
    assert not open_base(tmp_path / "merged").is_quantised


def test_the_adapters_chat_template_is_the_one_that_is_served(base: Path, tmp_path: Path) -> None:
    write_adapter(tmp_path / "adapter", base)
    assert run(base, tmp_path / "adapter", tmp_path / "merged") == 0
    served = (tmp_path / "merged/chat_template.jinja").read_bytes()
    assert served == (tmp_path / "adapter/chat_template.jinja").read_bytes()


def test_bf16_of_a_float32_base_says_so_in_its_config(tmp_path: Path) -> None:
    checkpoints.write(tmp_path / "base", dtype=torch.float32, multimodal=True)
    write_adapter(tmp_path / "adapter", tmp_path / "base")
    assert run(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged", "--dtype", "bf16") == 0
    assert json.loads((tmp_path / "merged/config.json").read_text())["text_config"]["dtype"] == "bfloat16"
    found = read_all(tmp_path / "merged")
    assert {tensor.dtype for tensor in text_only(found).values()} == {torch.bfloat16}
    assert torch.equal(found["vision_model.layer.weight"], checkpoints.VISION["vision_model.layer.weight"])


def test_pieces_change_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints.write(tmp_path / "base", dtype=torch.float32)
    write_adapter(tmp_path / "adapter", tmp_path / "base")
    arguments = (tmp_path / "base", tmp_path / "adapter")
    assert run(*arguments, tmp_path / "whole", "--dtype", "bf16") == 0
    monkeypatch.setattr(merge, "_STEP_NUMBERS", 37)
    assert run(*arguments, tmp_path / "pieces", "--dtype", "bf16") == 0
    name = "model.safetensors"
    assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "pieces" / name).read_bytes()


# --- 8 bits


def fused(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """An FP8 checkpoint's text weights as bf16's are: dequantised, a layer's experts in one tensor."""
    weights = {}
    for name, tensor in text_only(found).items():
        scale = found.get(name.replace(".weight", ".weight_scale"))
        if not name.endswith("_scale"):
            weights[name] = tensor.float() if scale is None else tensor.float() * scale
    for layer in {name.split(".experts.")[0] + ".experts" for name in weights if ".experts." in name}:
        parts = {
            part: torch.stack([weights.pop(f"{layer}.{e}.{part}_proj.weight").t() for e in range(4)])
            for part in ("gate", "up", "down")
        }
        weights[f"{layer}.gate_up_proj"] = torch.cat([parts["gate"], parts["up"]], dim=2)
        weights[f"{layer}.down_proj"] = parts["down"]
    return weights


def test_fp8_is_within_its_rounding_and_leaves_the_rest_as_it_is(tmp_path: Path) -> None:
    text = {**checkpoints.TEXT, "interleave_moe_layer_step": 2}
    weights = checkpoints.write(tmp_path / "base", text=text, num_shards=2)
    lora = write_adapter(tmp_path / "adapter", tmp_path / "base")
    assert run(tmp_path / "base", tmp_path / "adapter", tmp_path / "fp8", "--dtype", "fp8") == 0

    stored = read_all(tmp_path / "fp8")
    found, expected = fused(stored), adapted(weights, lora)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        if "feed_forward" in name and "router" not in name:
            # Half of the last of e4m3's 3 bits, or of the smallest step of what is near zero.
            axis = 1 if name.endswith(".weight") else -2
            step = tensor.abs().amax(dim=axis, keepdim=True) / 448 * 2**-9
            assert bool(((found[name] - tensor).abs() <= torch.maximum(tensor.abs() / 16, step / 2) * 1.0001).all())
        else:
            assert torch.equal(found[name], tensor.bfloat16().float()), name
    quantised = {name for name, tensor in stored.items() if tensor.dtype == torch.float8_e4m3fn}
    assert {name.replace("weight", "weight_scale") for name in quantised} == {n for n in stored if "_scale" in n}
    for name in quantised:
        scale = stored[name.replace("weight", "weight_scale")]
        assert (scale.dtype, scale.shape) == (torch.float32, (stored[name].shape[0], 1))
    assert "model.layers.1.feed_forward.experts.3.up_proj.weight" in quantised
    assert stored["model.layers.1.feed_forward.experts.3.up_proj.weight"].shape == (64, 64)
    planned = ModelShape.from_config(json.loads((tmp_path / "base/config.json").read_text()))
    without_scales = sum(tensor.nbytes for name, tensor in stored.items() if not name.endswith("_scale"))
    assert without_scales == sum(planned.bytes_by_part("fp8").values())


def test_fp8_index_and_config_are_of_the_new_tensors(tmp_path: Path) -> None:
    checkpoints.write(tmp_path / "base", num_shards=3, multimodal=True)
    write_adapter(tmp_path / "adapter", tmp_path / "base")
    assert run(tmp_path / "base", tmp_path / "adapter", tmp_path / "fp8", "--dtype", "fp8") == 0
    index = json.loads((tmp_path / "fp8/model.safetensors.index.json").read_text())
    for file in (tmp_path / "fp8").glob("*.safetensors"):
        assert load_file(file).keys() == {name for name, shard in index["weight_map"].items() if shard == file.name}
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in read_all(tmp_path / "fp8").values())

    config = json.loads((tmp_path / "fp8/config.json").read_text())["quantization_config"]
    assert config["quant_method"] == "compressed-tensors"
    group = config["config_groups"]["group_0"]
    assert (group["weights"]["strategy"], group["weights"]["type"], group["weights"]["num_bits"]) == (
        "channel",
        "float",
        8,
    )
    assert group["input_activations"]["dynamic"]
    # What is stored in 16 bits must be ignored, and nothing else.
    stored = read_all(tmp_path / "fp8")
    for name, tensor in stored.items():
        module = name.removesuffix(".weight")
        if tensor.ndim == 2 and name.endswith(".weight") and "embed" not in name and "norm" not in name:
            ignored = any(re.match(pattern[3:], module) for pattern in config["ignore"])
            assert ignored == (tensor.dtype != torch.float8_e4m3fn), name


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 2**31), exponent=st.integers(-16, 30), rows=st.integers(1, 9), columns=st.integers(1, 40))
def test_fp8_of_any_matrix(seed: int, exponent: int, rows: int, columns: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator) * 2.0**exponent
    weight[0] *= float(torch.rand(1, generator=generator) < 0.5)
    values, scale = fp8.quantise(weight)
    assert bool(values.float().isfinite().all())
    back = values.float() * scale
    assert bool(((back - weight).abs() <= torch.maximum(weight.abs() / 16, scale * 2**-10) * 1.0001).all())
    largest = weight.abs().amax(dim=1)
    torch.testing.assert_close(back.abs().amax(dim=1), largest, rtol=1e-6, atol=0)
    assert torch.equal(fp8.quantise(-weight)[0].float(), -values.float())


# --- ended and started again, and what is refused


def test_goes_on_with_the_next_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints.write(tmp_path / "base", num_shards=3)
    write_adapter(tmp_path / "adapter", tmp_path / "base")
    arguments = (tmp_path / "base", tmp_path / "adapter")
    assert run(*arguments, tmp_path / "whole") == 0
    write = packs.write_atomically

    def killed(path: Path, *pieces: object) -> str:
        if path.name == "model-00002-of-00003.safetensors":
            path.with_name(path.name + ".partial").write_bytes(b"half a fi")
            raise KeyboardInterrupt
        return write(path, *pieces)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(packs, "write_atomically", killed)
        assert run(*arguments, tmp_path / "merged") == 130
    assert not (tmp_path / "merged/config.json").exists()
    first = tmp_path / "merged/model-00001-of-00003.safetensors"
    before = first.stat().st_mtime_ns
    capsys.readouterr()
    assert run(*arguments, tmp_path / "merged") == 0
    assert first.stat().st_mtime_ns == before
    assert "100%" in capsys.readouterr().out
    for file in (tmp_path / "whole").iterdir():
        assert (tmp_path / "merged" / file.name).read_bytes() == file.read_bytes()
    assert not list((tmp_path / "merged").glob("*.partial"))


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = {name: tensor.clone() for name, tensor in load_file(folder / adapter.WEIGHTS).items()}
    edit(weights)
    save_file(weights, folder / adapter.WEIGHTS)


def rename(old: str, new: str) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        change(root / "adapter", lambda w: [w.update({n.replace(old, new): w.pop(n)}) for n in list(w) if old in n])

    return spoil


def without(part: str) -> Callable[[Path], None]:
    return lambda root: change(root / "adapter", lambda w: [w.pop(name) for name in list(w) if part in name])


def another_width(root: Path) -> None:
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    change(root / "adapter", lambda w: w.update({name: w[name][:, :32].clone()}))


def other_experts_width(root: Path) -> None:
    name = "base_model.model.model.layers.0.feed_forward.experts.0.gate_proj.lora_B.weight"
    change(root / "adapter", lambda w: w.update({name: w[name].repeat(2, 1)}))


def quantised_base(root: Path) -> None:
    (root / "base").rename(root / "bf16")
    quantize.quantize(root / "bf16", root / "base", device=torch.device("cpu"))


def another_merge(root: Path) -> None:
    assert run(root / "base", root / "adapter", root / "merged") == 0
    change(root / "adapter", lambda w: [tensor.mul_(2) for tensor in w.values()])


def no_adapter(root: Path) -> None:
    (root / "adapter/adapter_config.json").unlink()


def into_the_base(root: Path) -> None:
    (root / "merged").symlink_to(root / "base")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (rename("layers.1.self_attn.q_proj", "layers.7.self_attn.q_proj"), "model.layers.7.self_attn.q_proj, which"),
        (rename("experts.3.up_proj", "experts.4.up_proj"), "model.layers.0.feed_forward.experts.4.up_proj, which"),
        (rename("experts.3.up_proj", "experts.3.gate_up_proj"), "experts.3.gate_up_proj.lora_A.weight has no form"),
        (without("layers.1.self_attn.q_proj"), "lacks model.layers.1.self_attn.q_proj, which its adapter_config.json"),
        (another_width, "model.layers.0.self_attn.q_proj is 64 x 64, and the adapter's 64 x 32"),
        (other_experts_width, "model.layers.0.feed_forward.experts.0.gate_proj is 64 x 64, and the adapter's 128 x 64"),
        (quantised_base, "base is quantised, which loses precision; give the checkpoint it was made from"),
        (another_merge, "model.safetensors, which was not made of this base, adapter and dtype"),
        (no_adapter, "adapter_config.json is missing"),
        (into_the_base, "holds model.safetensors, which was not made of this"),
    ],
)
def test_says_why_in_one_sentence(
    spoil: Callable[[Path], None], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints.write(tmp_path / "base")
    write_adapter(tmp_path / "adapter", tmp_path / "base")
    spoil(tmp_path)
    capsys.readouterr()
    assert run(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged") == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
