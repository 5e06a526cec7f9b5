"""The adapter's files, in PEFT's format under the names that vLLM looks for.

vLLM ignores a LoRA key whose name it does not know and answers with the base model, so that names are checked
when the adapter is written and again when it is read.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from training_code.environment import read_json_object, write_json
from training_code.errors import TrainingError
from training_code.lora import LoraLinear, attach, parameters, target_pattern

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
"""Served with the adapter, so that the endpoint prompts in the very format that was trained on."""

_PREFIX = "base_model.model."
_KEY = re.compile(
    r"base_model\.model\.model\.layers\.\d+\."
    r"(?:self_attn\.(?:q|k|v|o)_proj|feed_forward\.shared_expert\.(?:gate|up|down)_proj)"
    r"\.lora_(?P<part>[AB])\.weight"
)


def save(
    folder: Path,
    attached: dict[str, LoraLinear],
    *,
    targets: Sequence[str],
    rank: int,
    alpha: int,
    dropout: float,
) -> None:
    """Write the adapter; the folder holds a whole adapter at every moment after the first call."""
    weights = {
        f"{_PREFIX}{name}.weight": parameter.detach().to("cpu").contiguous()
        for name, parameter in parameters(attached).items()
    }
    check_keys(weights)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / (WEIGHTS + ".partial")
    save_file(weights, str(partial), metadata={"format": "pt"})
    partial.replace(folder / WEIGHTS)
    shutil.copyfile(Path(__file__).with_name(CHAT_TEMPLATE), folder / CHAT_TEMPLATE)
    write_json(
        folder / CONFIG,
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "r": rank,
            "lora_alpha": alpha,
            "lora_dropout": dropout,
            "target_modules": target_pattern(targets),
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "init_lora_weights": True,
            "modules_to_save": None,
            "use_dora": False,
            "use_rslora": False,
        },
    )


def check_keys(names: Iterable[str]) -> None:
    """Raises TrainingError for a key of a form that vLLM does not know, or an A without its B."""
    names = set(names)
    for name in sorted(names):
        match = _KEY.fullmatch(name)
        if not match:
            raise TrainingError(f"adapter key {name} has no form that vLLM loads; it would be ignored in silence")
        other = "B" if match["part"] == "A" else "A"
        if name.replace(f"lora_{match['part']}.", f"lora_{other}.") not in names:
            raise TrainingError(f"adapter key {name} has no lora_{other} beside it")
    if not names:
        raise TrainingError("the adapter is empty")


def load(folder: Path, model: nn.Module) -> dict[str, LoraLinear]:
    """Attach the adapter in `folder` to the base model. Raises TrainingError where they do not belong together."""
    config = read_json_object(folder / CONFIG)
    try:
        weights = load_file(str(folder / WEIGHTS))
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{folder / WEIGHTS} cannot be read: {error}") from None
    check_keys(weights)
    attached = attach(
        model, _targets(config, folder), rank=config["r"], alpha=config["lora_alpha"], dropout=0.0, seed=0
    )
    _copy(weights, attached, folder)
    return attached


def _targets(config: Mapping[str, Any], folder: Path) -> tuple[str, ...]:
    for targets in (("attention", "shared_expert"), ("attention",), ("shared_expert",)):
        if config.get("target_modules") == target_pattern(targets):
            return targets
    shown = json.dumps(config.get("target_modules"))
    raise TrainingError(f"{folder / CONFIG}: target_modules={shown} was not written by this trainer")


def _copy(weights: Mapping[str, torch.Tensor], attached: dict[str, LoraLinear], folder: Path) -> None:
    wanted = {f"{_PREFIX}{name}.weight": parameter for name, parameter in parameters(attached).items()}
    if wanted.keys() != weights.keys():
        strange = min(wanted.keys() ^ weights.keys())
        raise TrainingError(f"{folder} is not an adapter of this base model: {strange} is only in one of them")
    for name, parameter in wanted.items():
        if parameter.shape != weights[name].shape:
            raise TrainingError(
                f"{folder} is not an adapter of this base model: {name} has shape {tuple(weights[name].shape)}, "
                f"the model calls for {tuple(parameter.shape)}"
            )
        parameter.data.copy_(weights[name])
