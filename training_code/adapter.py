"""The adapter's files, in PEFT's format under the names that vLLM looks for.

vLLM ignores a LoRA key whose name it does not know and answers with the base model, so that names are checked
when the adapter is written and again when it is read.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from training_code.architecture import Architecture
from training_code.environment import read_json_object, save_tensors, write_json
from training_code.errors import TrainingError
from training_code.lora_weights import LoraWeights
from training_code.weight_names import layer_shapes

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
"""Served with the adapter, so that the endpoint prompts in the very format that was trained on."""

TARGET_PATTERNS = {
    "attention": r"model\.layers\.\d+\.self_attn\.(?:q|k|v|o)_proj",
    "shared_expert": r"model\.layers\.\d+\.feed_forward\.shared_expert\.(?:gate|up|down)_proj",
    "routed_experts": r"model\.layers\.\d+\.feed_forward\.experts\.\d+\.(?:gate|up|down)_proj",
}
"""LORA_TARGETS -> names of modules, matched whole: a bare `q_proj` would also hit the vision tower.

Routed experts are one matrix each under these names, as in vLLM; transformers keeps a layer's in one tensor, so that
PEFT cannot put that part onto its model.
"""

_PREFIX = "base_model.model."
_KEY = re.compile(rf"{re.escape(_PREFIX)}(?P<module>{'|'.join(TARGET_PATTERNS.values())})\.lora_(?P<part>[AB])\.weight")
_STACK = re.compile(r"(?P<layer>.*\.feed_forward\.experts)\.(?P<part>(?:gate|up|down)_proj\.lora_[AB])")


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """An adapter as it is stored."""

    rank: int
    alpha: float
    target_modules: str
    """Regular expression of the names of all modules that it is for."""
    matrices: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
    """Module name -> A (rank, inputs) and B (outputs, rank), f32."""

    def update(self, module: str) -> torch.Tensor:
        """What is added to the module's weight (outputs, inputs): B A * alpha / rank."""
        lora_a, lora_b = self.matrices[module]
        return lora_b @ lora_a * (self.alpha / self.rank)


def target_pattern(targets: Sequence[str]) -> str:
    """The anchored regular expression of these LORA_TARGETS, as PEFT's `target_modules` takes it."""
    return "|".join(TARGET_PATTERNS[target] for target in targets)


def modules(architecture: Architecture, pattern: str) -> set[str]:
    """A model's matrices that an expression of target modules means, routed experts one by one."""
    names: set[str] = set()
    for number, has_experts in enumerate(architecture.has_experts):
        prefix = f"model.layers.{number}."
        names.update(prefix + name.removesuffix(".weight") for name in layer_shapes(architecture, number))
        if has_experts:
            names.update(
                f"{prefix}feed_forward.experts.{expert}.{part}_proj"
                for expert in range(architecture.shape.num_experts)
                for part in ("gate", "up", "down")
            )
    return {name for name in names if re.fullmatch(pattern, name)}


def save(
    folder: Path,
    lora: LoraWeights,
    architecture: Architecture,
    *,
    targets: Sequence[str],
    rank: int,
    alpha: int,
    dropout: float,
) -> None:
    """Write the adapter; the folder holds a whole adapter at every moment after the first call."""
    weights: dict[str, torch.Tensor] = {}
    for name, tensor in lora.named().items():
        stack = _STACK.fullmatch(name)
        if stack is None:
            weights[f"{_PREFIX}{name}.weight"] = tensor.to("cpu", copy=True)
            continue
        for expert, matrix in enumerate(tensor.unbind()):
            weights[f"{_PREFIX}{stack['layer']}.{expert}.{stack['part']}.weight"] = matrix.to("cpu", copy=True)
    check_keys(weights, architecture, targets)
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder / WEIGHTS, weights, {"format": "pt"})
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


def check_keys(names: Iterable[str], architecture: Architecture, targets: Sequence[str]) -> None:
    """Raises TrainingError unless these are all keys of an adapter on these LORA_TARGETS, and no others."""
    found = _modules_of(names)
    expected = modules(architecture, target_pattern(targets))
    for name in sorted(found - expected):
        raise TrainingError(
            f"adapter keys of {name} mean no matrix of this model and LORA_TARGETS={','.join(targets)}; they would be "
            "ignored in silence"
        )
    for name in sorted(expected - found):
        raise TrainingError(f"the adapter lacks {name}, which LORA_TARGETS={','.join(targets)} calls for")


def _modules_of(names: Iterable[str]) -> set[str]:
    """Raises TrainingError for a key of a form that vLLM does not know, an A without its B, and no key at all."""
    names, found = set(names), set[str]()
    for name in sorted(names):
        match = _KEY.fullmatch(name)
        if not match:
            raise TrainingError(f"adapter key {name} has no form that vLLM loads; it would be ignored in silence")
        other = "B" if match["part"] == "A" else "A"
        if name.replace(f"lora_{match['part']}.", f"lora_{other}.") not in names:
            raise TrainingError(f"adapter key {name} has no lora_{other} beside it")
        found.add(match["module"])
    if not names:
        raise TrainingError("the adapter is empty")
    return found


def read(folder: Path) -> Adapter:
    """The adapter in `folder`. Raises TrainingError where it is not whole or not one of this trainer's."""
    config = read_json_object(folder / CONFIG)
    try:
        weights = load_file(str(folder / WEIGHTS))
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{folder / WEIGHTS} cannot be read: {error}") from None
    _modules_of(weights)
    rank, alpha = config.get("r"), config.get("lora_alpha")
    target = config.get("target_modules")
    if not isinstance(rank, int) or not isinstance(alpha, (int, float)) or not isinstance(target, str):
        raise TrainingError(f"{folder / CONFIG} was not written by this trainer: it lacks r, lora_alpha or a pattern")
    matrices = {}
    for name, lora_a in weights.items():
        match = _KEY.fullmatch(name)
        assert match is not None  # _modules_of
        if match["part"] == "A":
            lora_b = weights[name.replace("lora_A.", "lora_B.")]
            if lora_a.shape[0] != rank or lora_b.shape[-1] != rank:
                raise TrainingError(f"{folder}: {name} is not of rank {rank}, which adapter_config.json says")
            matrices[match["module"]] = (lora_a.float(), lora_b.float())
    return Adapter(rank=rank, alpha=float(alpha), target_modules=target, matrices=matrices)
