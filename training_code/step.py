"""One optimizer step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from training_code.clock import Clock
from training_code.data import Batch
from training_code.errors import TrainingError
from training_code.objective import loss_sum, num_supervised

if TYPE_CHECKING:
    from transformers import Llama4ForCausalLM

MAX_GRADIENT_NORM = 1.0


class StepAbandonedError(Exception):
    """SIGTERM came within the step. No weight has changed."""


@dataclass(frozen=True)
class StepResult:
    """What a step saw and what its loss was before it."""

    loss: float
    """Mean over all supervised tokens of the step, however they fall into micro-batches."""
    tokens: int
    supervised_tokens: int


def train_step(
    model: Llama4ForCausalLM,
    batches: Sequence[Batch],
    parameters: Iterable[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    *,
    seed: int,
    device: torch.device,
    clock: Clock,
) -> StepResult:
    """Accumulate the gradients of all micro-batches, clip, and update. `seed` decides the step's dropout.

    Raises StepAbandonedError on SIGTERM and TrainingError for a loss or gradient that is not a number; both before any
    weight changes.
    """
    parameters = list(parameters)
    torch.manual_seed(seed)
    optimizer.zero_grad(set_to_none=True)
    total, tokens = 0.0, max(1, num_supervised(batches))
    for batch in batches:
        if clock.signalled:
            raise StepAbandonedError
        loss = loss_sum(model, batch.to(device)) / tokens
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    norm = nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM).item()
    for name, value in (("loss", total), ("gradient", norm)):
        if not math.isfinite(value):
            raise TrainingError(
                f"the {name} became {value}: lower LEARNING_RATE, or check that the base model's weights are whole"
            )
    optimizer.step()
    return StepResult(total, sum(batch.num_tokens for batch in batches), num_supervised(batches))
