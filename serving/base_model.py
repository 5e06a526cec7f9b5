"""A base model for the laptop's server: transformers' own Llama 4, so that what was trained runs on other code too."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from training_code.adapter import Adapter
from training_code.base_files import open_base
from training_code.errors import TrainingError
from training_code.placing import require_host_memory

if TYPE_CHECKING:
    from transformers import Llama4ForCausalLM

_EXPERTS = re.compile(r"(?P<place>.*\.feed_forward\.experts)\.(?P<projection>gate_up|down)_proj")
"""(experts, inputs, outputs); gate and up lie side by side."""


def load(folder: Path, device: torch.device, dtype: torch.dtype) -> Llama4ForCausalLM:
    """In evaluation mode, its weights frozen. Raises TrainingError for a folder that the trainer would refuse."""
    base = open_base(folder)
    if base.is_quantised:
        raise TrainingError(f"{folder} is quantised to NF4, for training; serve the checkpoint that it was made of")
    require_host_memory(base.architecture.shape, dtype.itemsize * base.architecture.shape.text_parameters)
    # Imported here because it takes seconds, and a wrong folder should be refused at once.
    from transformers import Llama4TextConfig
    from transformers.models.llama4.modeling_llama4 import Llama4ForCausalLM, Llama4TextRotaryEmbedding

    config = Llama4TextConfig(**base.text_config)
    with torch.device("meta"):
        model = Llama4ForCausalLM(config)
    model.load_state_dict({name: stored.read().to(device, dtype) for name, stored in base.stored.items()}, assign=True)
    # Its frequencies are computed, not stored: the meta device has none.
    model.model.rotary_emb = Llama4TextRotaryEmbedding(config=config).to(device)
    model.requires_grad_(False)
    return model.eval()


@dataclass
class SwitchableAdapter:
    """An adapter merged into some weights of a model, which keeps the originals beside them."""

    model: Llama4ForCausalLM
    adapter: Adapter
    _merged: dict[str, torch.Tensor] = field(init=False)

    def __post_init__(self) -> None:
        """Raises TrainingError where the adapter is not one of this model's."""
        weights = dict(self.model.named_parameters())
        parts = {
            module: part
            for name, weight in weights.items()
            for module, part in _modules(name, weight)
            if re.fullmatch(self.adapter.target_modules, module)
        }
        if strange := parts.keys() ^ self.adapter.matrices.keys():
            raise TrainingError(f"this is not an adapter of this base model: {min(strange)} is only in one of them")
        wide = {
            name: weights[name].detach().float().clone() for name in dict.fromkeys(one.weight for one in parts.values())
        }
        for module, part in parts.items():
            matrix, update = part.of(wide[part.weight]), self.adapter.update(module)
            if matrix.shape != update.shape:
                raise TrainingError(
                    f"this is not an adapter of this base model: it changes {module} by a matrix of shape "
                    f"{tuple(update.shape)}, and the model has one of {tuple(matrix.shape)}"
                )
            matrix += update.to(matrix.device)
        self._merged = {name: tensor.to(weights[name].dtype) for name, tensor in wide.items()}
        self._base: Mapping[str, torch.Tensor] = {name: weights[name].data for name in wide}

    @contextmanager
    def on(self) -> Iterator[None]:
        """The tuned model, from here to the end of the block."""
        self._use(self._merged)
        try:
            yield
        finally:
            self._use(self._base)

    def _use(self, tensors: Mapping[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            self.model.get_parameter(name).data = tensor


@dataclass(frozen=True)
class _Part:
    """What of a weight of transformers' model is one of the adapter's modules."""

    weight: str
    expert: int | None = None
    column: int = 0
    num_columns: int = 1

    def of(self, weight: torch.Tensor) -> torch.Tensor:
        """A view (outputs, inputs) of it."""
        if self.expert is None:
            return weight
        return weight[self.expert].chunk(self.num_columns, dim=-1)[self.column].t()


def _modules(name: str, weight: torch.Tensor) -> Iterator[tuple[str, _Part]]:
    """The modules, by the names that the adapter gives them, of one weight: a layer's routed experts are one tensor."""
    match = _EXPERTS.fullmatch(name)
    if not match:
        yield name.removesuffix(".weight"), _Part(name)
        return
    projections = ("gate", "up") if match["projection"] == "gate_up" else ("down",)
    for expert in range(weight.shape[0]):
        for column, projection in enumerate(projections):
            yield f"{match['place']}.{expert}.{projection}_proj", _Part(name, expert, column, len(projections))
