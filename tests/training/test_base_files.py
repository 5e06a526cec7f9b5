"""Every form of a base model's folder is read to the same weights, and every broken one is refused with its file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.training import checkpoints
from training_code import nf4
from training_code.base_files import open_base
from training_code.errors import TrainingError
from training_code.weight_names import NOT_QUANTISED, layer_shapes

MIXED = {**checkpoints.TEXT, "interleave_moe_layer_step": 2, "num_hidden_layers": 3}
"""Layers with experts between dense ones"""
QUANTISED = {
    *(f"self_attn.{name}_proj.weight" for name in "qkvo"),
    *(f"feed_forward.shared_expert.{name}_proj.weight" for name in ("gate", "up", "down")),
    "feed_forward.experts.gate_up_proj",
    "feed_forward.experts.down_proj",
}


@pytest.mark.parametrize("multimodal", [False, True])
@pytest.mark.parametrize("num_shards", [1, 3])
@pytest.mark.parametrize("text", [checkpoints.TEXT, MIXED], ids=["scout", "mixed"])
def test_reads_every_form_of_a_checkpoint(
    multimodal: bool, num_shards: int, text: dict[str, Any], tmp_path: Path
) -> None:
    weights = checkpoints.write(tmp_path / "base", text=text, multimodal=multimodal, num_shards=num_shards)
    base = open_base(tmp_path / "base")
    assert not base.is_quantised
    assert base.num_layers == text["num_hidden_layers"]
    assert torch.equal(base.embedding(), weights["model.embed_tokens.weight"])
    assert torch.equal(base.final_norm(), weights["model.norm.weight"])
    assert torch.equal(base.head(), weights["lm_head.weight"])
    for number in range(base.num_layers):
        layer = base.layer(number, quantise=False)
        assert set(layer.layout.names) == layer_shapes(base.architecture, number).keys()
        for name in layer.layout.names:
            assert torch.equal(layer.tensor(name), weights[f"model.layers.{number}.{name}"])


def test_reads_what_transformers_writes(base: Path) -> None:
    weights = load_file(base / "model.safetensors")
    found = open_base(base).layer(3, quantise=False)
    for name in found.layout.names:
        assert torch.equal(found.tensor(name), weights[f"model.layers.3.{name}"])


def test_quantises_the_projections_and_nothing_else(tmp_path: Path) -> None:
    weights = checkpoints.write(tmp_path / "base")
    layer = open_base(tmp_path / "base").layer(1, quantise=True)
    assert {name for name in layer.layout.names if layer.layout.is_quantised(name)} == QUANTISED
    assert set(layer.layout.names) - QUANTISED == set(NOT_QUANTISED)
    for name in layer.layout.names:
        expected = weights[f"model.layers.1.{name}"]
        if name in QUANTISED:
            expected = nf4.dequantize(nf4.quantize(expected), expected.shape, torch.bfloat16)
        assert torch.equal(layer.matrix(name, torch.bfloat16), expected)


def test_dense_layers_are_quantised_too(tmp_path: Path) -> None:
    checkpoints.write(tmp_path / "base", text=MIXED)
    layout = open_base(tmp_path / "base").layer_layout(0, quantise=True)
    assert layout.is_quantised("feed_forward.gate_proj.weight")
    assert not layout.is_quantised("input_layernorm.weight")


@pytest.mark.parametrize("quantise", [False, True])
@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_a_layers_size_is_known_before_it_is_read(quantise: bool, dtype: torch.dtype | None, tmp_path: Path) -> None:
    weights = checkpoints.write(tmp_path / "base")
    base = open_base(tmp_path / "base")
    layout = base.layer_layout(0, quantise=quantise, dtype=dtype)
    layer = base.layer(0, quantise=quantise, dtype=dtype)
    assert layer.layout == layout == base.layer_layout(1, quantise=quantise, dtype=dtype)
    assert base.layer_bytes(0, quantise=quantise, dtype=dtype) == layer.data.numel()
    router = layer.tensor("feed_forward.router.weight")
    assert router.dtype == (dtype or torch.bfloat16)
    assert torch.equal(router.bfloat16(), weights["model.layers.0.feed_forward.router.weight"])


def test_reads_into_a_given_buffer(tmp_path: Path) -> None:
    checkpoints.write(tmp_path / "base")
    base = open_base(tmp_path / "base")
    buffer = torch.zeros(base.layer_bytes(0, quantise=True) + 5, dtype=torch.uint8)
    layer = base.layer(0, quantise=True, out=buffer)
    assert layer.data.data_ptr() == buffer.data_ptr()
    assert torch.equal(layer.data, base.layer(0, quantise=True).data)


def test_tied_weights_are_one(tmp_path: Path) -> None:
    text = {**checkpoints.TEXT, "tie_word_embeddings": True}
    weights = checkpoints.write(tmp_path / "base", text=text)
    assert "lm_head.weight" not in weights
    assert torch.equal(open_base(tmp_path / "base").head(), weights["model.embed_tokens.weight"])


def test_a_head_stored_beside_tied_weights_is_not_used(tmp_path: Path) -> None:
    weights = checkpoints.write(tmp_path / "base")
    edit(tmp_path / "base/config.json", tie_word_embeddings=True)
    assert torch.equal(open_base(tmp_path / "base").head(), weights["model.embed_tokens.weight"])


# --- what is refused


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    change(weights)
    save_file(weights, folder / "model.safetensors")


def another_architecture(folder: Path) -> None:
    edit(folder / "config.json", model_type="llama")


def two_experts_a_token(folder: Path) -> None:
    edit(folder / "config.json", num_experts_per_tok=2)


def already_quantised(folder: Path) -> None:
    edit(folder / "config.json", quantization_config={"quant_method": "fbgemm_fp8"})


def no_hidden_size(folder: Path) -> None:
    edit(folder / "config.json", hidden_size=None)


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def rubbish_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"<Error>AccessDenied</Error>")


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def missing_shard(folder: Path) -> None:
    index = {"weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def broken_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("{}")


def missing_tensor(folder: Path) -> None:
    change_weights(folder, lambda weights: weights.pop("model.norm.weight"))


def no_head(folder: Path) -> None:
    change_weights(folder, lambda weights: weights.pop("lm_head.weight"))


def strange_tensor(folder: Path) -> None:
    change_weights(folder, lambda weights: weights.update({"model.layers.9.extra": torch.zeros(2)}))


def twice_stored(folder: Path) -> None:
    save_file({"model.norm.weight": torch.ones(64)}, folder / "more.safetensors")


def wrong_shape(folder: Path) -> None:
    change_weights(folder, lambda weights: weights.update({"model.norm.weight": torch.ones(65)}))


def eight_bit(folder: Path) -> None:
    change_weights(folder, lambda weights: weights.update({"lm_head.weight": torch.ones(96, 64, dtype=torch.int8)}))


def quantised_without_manifest(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "layer-000.safetensors")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (another_architecture, "describes a model of type 'llama'; this trainer trains Llama 4 only"),
        (two_experts_a_token, "num_experts_per_tok=2 must be 1"),
        (already_quantised, "config.json is of a quantised checkpoint; upload the bf16 one"),
        (no_hidden_size, "config.json has hidden_size=None, not a whole number"),
        (no_config, "config.json is missing: the `model` channel must hold"),
        (broken_config, "config.json cannot be read as JSON"),
        (cut_weights, "model.safetensors is not a whole safetensors file"),
        (rubbish_weights, "model.safetensors is not a whole safetensors file"),
        (no_weights, "lacks *.safetensors; copy the whole checkpoint folder"),
        (missing_shard, "lacks model-00002-of-00002.safetensors"),
        (broken_index, "model.safetensors.index.json has no weight_map of file names"),
        (missing_tensor, "has no tensor model.norm.weight"),
        (no_head, "has no tensor lm_head.weight, which its config.json calls for"),
        (strange_tensor, "has a tensor model.layers.9.extra that its config.json does not call for"),
        (twice_stored, "more.safetensors has model.norm.weight, as model.safetensors has"),
        (wrong_shape, "model.norm.weight has shape (65,); config.json calls for (64,)"),
        (eight_bit, "model.safetensors: lm_head.weight is int8; use the checkpoint in bfloat16"),
        (quantised_without_manifest, "lacks nf4.json, and was quantised; copy the whole folder"),
    ],
)
def test_says_why_in_one_sentence(spoil: Callable[[Path], None], said: str, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    checkpoints.write(folder)
    spoil(folder)
    with pytest.raises(TrainingError) as refused:
        open_base(folder)
    assert said in str(refused.value)
    assert str(folder) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_weight_that_is_no_number_is_named_when_it_is_quantised(tmp_path: Path) -> None:
    checkpoints.write(tmp_path / "base")
    name = "model.layers.1.self_attn.k_proj.weight"
    change_weights(tmp_path / "base", lambda weights: weights[name][0, 0].fill_(float("inf")))
    base = open_base(tmp_path / "base")
    with pytest.raises(
        TrainingError, match=r"model.safetensors: .*1.self_attn.k_proj.weight: a weight is not a finite"
    ):
        base.layer(1, quantise=True)


def test_sizes_that_nf4_cannot_hold_are_refused(tmp_path: Path) -> None:
    text = {**checkpoints.TEXT, "hidden_size": 20, "head_dim": 6}
    checkpoints.write(tmp_path / "base", text=text)
    base = open_base(tmp_path / "base")
    assert base.layer_bytes(0, quantise=False)
    with pytest.raises(TrainingError, match=r"cannot be quantised to NF4: layer 0's self_attn.q_proj\.weight of"):
        base.layer(0, quantise=True)
