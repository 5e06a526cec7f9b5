"""Checkpoint folders of random weights, in every form that Hugging Face has for a Llama 4."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.training import tiny
from training_code.architecture import Architecture
from training_code.weight_names import expected_shapes

TEXT: dict[str, Any] = {"model_type": "llama4_text", "vocab_size": 96, **tiny.CONFIG, "num_hidden_layers": 2}
VISION = {"vision_model.layer.weight": torch.ones(3), "multi_modal_projector.linear_1.weight": torch.ones(2, 2)}


def weights(text: Mapping[str, Any], *, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
    """By the names of Llama4ForCausalLM; norms near one, matrices near transformers' initial ones."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in expected_shapes(Architecture.from_config(text)).items():
        value = torch.randn(shape, generator=generator) * (0.1 if "norm" in name else 0.02)
        found[name] = (value + 1 if "norm" in name else value).to(dtype)
    return found


def write(
    folder: Path,
    *,
    text: Mapping[str, Any] = TEXT,
    dtype: torch.dtype = torch.bfloat16,
    multimodal: bool = False,
    num_shards: int = 1,
    seed: int = 0,
) -> dict[str, torch.Tensor]:
    """Returns the text model's weights. Shards have an index; tensors are dealt out to them in turn."""
    folder.mkdir(parents=True)
    text = {**text, "dtype": str(dtype).removeprefix("torch.")}
    config = {"model_type": "llama4", "text_config": text} if multimodal else text
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "probes.jsonl").write_text("{}\n")
    found = weights(text, seed=seed, dtype=dtype)
    prefix = "language_model." if multimodal else ""
    stored = {prefix + name: tensor for name, tensor in found.items()} | (VISION if multimodal else {})
    if num_shards == 1:
        save_file(stored, folder / "model.safetensors")
        return found
    names = [f"model-{i + 1:05}-of-{num_shards:05}.safetensors" for i in range(num_shards)]
    shard_of = {key: names[i % num_shards] for i, key in enumerate(stored)}
    for name in names:
        save_file({key: tensor for key, tensor in stored.items() if shard_of[key] == name}, folder / name)
    index = {"metadata": {"total_size": sum(t.nbytes for t in stored.values())}, "weight_map": shard_of}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return found
