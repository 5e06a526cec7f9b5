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
        meant = {name for name, _ in self.model.named_modules() if re.fullmatch(self.adapter.target_modules, name)}
        if strange := meant ^ self.adapter.matrices.keys():
            raise TrainingError(f"this is not an adapter of this base model: {min(strange)} is only in one of them")
        self._merged = {}
        for module in self.adapter.matrices:
            weight, update = weights[f"{module}.weight"], self.adapter.update(module)
            if weight.shape != update.shape:
                raise TrainingError(
                    f"this is not an adapter of this base model: it changes {module} by a matrix of shape "
                    f"{tuple(update.shape)}, and the model has one of {tuple(weight.shape)}"
                )
            self._merged[module] = (weight.float() + update.to(weight.device)).to(weight.dtype)
        self._base: Mapping[str, torch.Tensor] = {module: weights[f"{module}.weight"].data for module in self._merged}

    @contextmanager
    def on(self) -> Iterator[None]:
        """The tuned model, from here to the end of the block."""
        self._use(self._merged)
        try:
            yield
        finally:
            self._use(self._base)

    def _use(self, tensors: Mapping[str, torch.Tensor]) -> None:
        for module, tensor in tensors.items():
            self.model.get_submodule(module).weight.data = tensor
