"""One optimizer step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from training_code.batches import Part
from training_code.clock import Clock
from training_code.errors import TrainingError
from training_code.llama import Llama
from training_code.ranks import Ranks, Work

MAX_GRADIENT_NORM = 1.0


class StepAbandonedError(Exception):
    """SIGTERM came within the step. No weight has changed; the other ranks wait in vain for this one."""


@dataclass(frozen=True)
class StepResult:
    """What a step saw and what its loss was before it."""

    loss: float
    """Mean over all supervised tokens of the step, whatever rank and micro-batch they are in. Of a step that was
    skipped it may be no number."""
    tokens: int
    supervised_tokens: int
    is_skipped: bool = False
    """Whether f16's range was passed, so that no weight has changed."""


def train_step(
    llama: Llama,
    part: Part,
    optimizer: torch.optim.Optimizer,
    *,
    seed: str,
    clock: Clock,
    ranks: Ranks,
    mark: Callable[[str], None] | None = None,
) -> StepResult:
    """Accumulate the gradients of all micro-batches of all ranks, clip, and update. `seed` decides the dropout.

    Raises StepAbandonedError on SIGTERM, on the first rank alone, and TrainingError for a loss or gradient that is
    not a number; both before any weight changes. In f16, whose range a single conversation may pass, the step is
    skipped instead. `mark` is told when a part of the step is on its way: `forward`,
    `head` and `backward` of each group, `optimizer`.
    """
    gradient = llama.lora.gradient
    gradient.zero_()
    sums: list[Work | None] = []
    total = llama.accumulate(
        part.batches,
        num_batches=part.num_batches,
        seed=f"{seed}:{ranks.rank}",
        after_layer=lambda layer: sums.append(ranks.sum(llama.lora.layer_gradient(layer))),
        mark=mark,
        interrupted=lambda: clock.signalled and ranks.is_first,
    )
    if total is None:
        raise StepAbandonedError
    sums.append(ranks.sum(total))
    for pending in sums:
        if pending is not None:
            pending.wait()
    # Divided at the end: on their way down, gradients of a mean over many tokens would be below f16's smallest.
    scale = 1 / max(1, part.num_supervised)
    norm = torch.linalg.vector_norm(gradient) * scale
    # The loss and the norm come to the host together: one wait for the device in a step.
    loss, norm_value = torch.stack((total * scale, norm)).tolist()
    for name, value in (("loss", loss), ("gradient", norm_value)):
        if not math.isfinite(value):
            if llama.dtype == torch.float16:
                return StepResult(loss, part.num_tokens, part.num_supervised, is_skipped=True)
            raise TrainingError(
                f"the {name} became {value}: lower LEARNING_RATE, or check that the base model's weights are whole"
            )
    gradient.mul_(scale * min(1.0, MAX_GRADIENT_NORM / (norm_value + 1e-6)))
    optimizer.step()
    if mark is not None:
        mark("optimizer")
    return StepResult(loss, part.num_tokens, part.num_supervised)
