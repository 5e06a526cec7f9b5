"""What Meta's reference implementation computes for tiny random Llama 4s (recorded/make_meta.py recorded it)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

RECORDED = Path(__file__).parent / "recorded"


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One model, some documents, and what Meta's code makes of them in f32."""

    config: dict[str, Any]
    """The config.json of the same model in Hugging Face's form, text part alone."""
    weights: dict[str, Tensor]
    """By Hugging Face's names (`model.layers.0.self_attn.q_proj.weight`), bf16: the run had the same values in f32."""
    lengths: tuple[int, ...]
    """Tokens of each document; each was read alone, from position 0."""
    ids: Tensor
    """int64 (tokens,), the documents end to end."""
    logits: Tensor
    """f32 (tokens, vocabulary)."""
    loss: float
    """Mean cross-entropy of the next token, over all tokens of all documents that have a next one."""
    gradients: dict[str, Tensor]
    """Of the loss, by the weights' names; f32, of every weight."""

    def documents(self) -> list[Tensor]:
        return list(torch.split(self.ids, list(self.lengths)))


def names() -> list[str]:
    """Of the recorded models."""
    return sorted(path.stem.removeprefix("meta-") for path in RECORDED.glob("meta-*.safetensors"))


def load(name: str) -> Recording:
    weights: dict[str, Tensor] = {}
    gradients: dict[str, Tensor] = {}
    with safe_open(RECORDED / f"meta-{name}.safetensors", framework="pt") as file:
        about = json.loads(file.metadata()["recording"])
        for key in file.keys():  # noqa: SIM118 - not a mapping
            kind, _, weight = key.partition(":")
            if kind in ("weight", "gradient"):
                (weights if kind == "weight" else gradients)[weight] = file.get_tensor(key)
        ids, logits = file.get_tensor("ids"), file.get_tensor("logits")
    return Recording(
        config=about["config"],
        weights=weights,
        lengths=tuple(about["lengths"]),
        ids=ids,
        logits=logits,
        loss=about["loss"],
        gradients=gradients,
    )


def save(name: str, recording: Recording, *, versions: dict[str, str]) -> Path:
    path = RECORDED / f"meta-{name}.safetensors"
    about = {"config": recording.config, "lengths": recording.lengths, "loss": recording.loss, "versions": versions}
    tensors = {f"weight:{weight}": tensor for weight, tensor in recording.weights.items()}
    tensors |= {f"gradient:{weight}": tensor for weight, tensor in recording.gradients.items()}
    tensors |= {"ids": recording.ids, "logits": recording.logits}
    save_file(tensors, path, metadata={"recording": json.dumps(about)})
    path.chmod(0o644)  # safetensors writes for the owner alone.
    return path


def write_checkpoint(recording: Recording, folder: Path, dtype: torch.dtype = torch.bfloat16) -> Path:
    """The recorded model as a Hugging Face checkpoint, without a tokenizer. `folder` is made."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(recording.config))
    weights = {name: weight.to(dtype) for name, weight in recording.weights.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
