"""LoRA (Hu et al. 2021, arXiv:2106.09685) on chosen linear layers of a frozen model.

Modules of our own rather than PEFT's: the same arithmetic, an on/off switch, and a base layer that need not be an
nn.Linear once the frozen weights are quantised or streamed. Files are in PEFT's format (`training_code.adapter`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional

from training_code.errors import TrainingError

TARGET_PATTERNS = {
    "attention": r"model\.layers\.\d+\.self_attn\.(?:q|k|v|o)_proj",
    "shared_expert": r"model\.layers\.\d+\.feed_forward\.shared_expert\.(?:gate|up|down)_proj",
}
"""LORA_TARGETS -> names in Llama4ForCausalLM, matched whole: a bare `q_proj` would also hit the vision tower."""


class LoraLinear(nn.Module):
    """base(x) + dropout(x) A^T B^T * alpha / rank; B starts at zero, so that training starts from the base model."""

    def __init__(self, base: nn.Linear, *, rank: int, alpha: float, dropout: float) -> None:
        super().__init__()
        self.base = base
        self.scale = alpha / rank
        self.dropout = dropout
        self.enabled = True
        # f32 whatever the base computes in: AdamW's updates are far below bf16's resolution.
        device = base.weight.device
        self.lora_a = nn.Parameter(torch.empty(rank, base.in_features, device=device, dtype=torch.float32))
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank, device=device, dtype=torch.float32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.base(x)
        if not self.enabled:
            return y
        dropped = functional.dropout(x.to(self.lora_a.dtype), self.dropout, self.training)
        return y + (functional.linear(functional.linear(dropped, self.lora_a), self.lora_b) * self.scale).to(y.dtype)


def attach(
    model: nn.Module, targets: Sequence[str], *, rank: int, alpha: float, dropout: float, seed: int
) -> dict[str, LoraLinear]:
    """Put LoRA on the layers of these targets; their modules by the layers' names, in the model's order."""
    pattern = target_pattern(targets)
    layers = {name: module for name, module in model.named_modules() if re.fullmatch(pattern, name)}
    if not layers:
        raise TrainingError(f"LORA_TARGETS={','.join(targets)} names no layer of this model")
    generator = torch.Generator().manual_seed(seed)
    attached: dict[str, LoraLinear] = {}
    for name, layer in layers.items():
        assert isinstance(layer, nn.Linear)
        lora = LoraLinear(layer, rank=rank, alpha=alpha, dropout=dropout)
        start = torch.empty(lora.lora_a.shape)
        nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=generator)
        lora.lora_a.data.copy_(start)
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, lora)
        attached[name] = lora
    return attached


def target_pattern(targets: Sequence[str]) -> str:
    """The anchored regular expression of these LORA_TARGETS, as PEFT's `target_modules` takes it."""
    unsupported = [target for target in targets if target not in TARGET_PATTERNS]
    if unsupported:
        raise TrainingError(
            f"LORA_TARGETS={','.join(targets)}: {unsupported[0]} is not supported by this version of the trainer; "
            f"use {','.join(TARGET_PATTERNS)}"
        )
    return "|".join(TARGET_PATTERNS[target] for target in targets)


def parameters(attached: dict[str, LoraLinear]) -> dict[str, nn.Parameter]:
    """Every trained parameter by the name that checkpoints store it under."""
    return {
        f"{name}.{part}": parameter
        for name, lora in attached.items()
        for part, parameter in (("lora_A", lora.lora_a), ("lora_B", lora.lora_b))
    }


@contextmanager
def adapter_off(attached: dict[str, LoraLinear]) -> Iterator[None]:
    """The base model, from the same weights in memory."""
    before = {name: lora.enabled for name, lora in attached.items()}
    set_enabled(attached, False)
    try:
        yield
    finally:
        for name, lora in attached.items():
            lora.enabled = before[name]


def set_enabled(attached: dict[str, LoraLinear], enabled: bool) -> None:
    for lora in attached.values():
        lora.enabled = enabled
