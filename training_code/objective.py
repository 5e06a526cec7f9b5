"""What is minimised: cross-entropy on the tokens that the assistant says."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from training_code.data import Batch

if TYPE_CHECKING:
    from transformers import Llama4ForCausalLM


@dataclass(frozen=True)
class Evaluation:
    """Mean loss of a supervised token over all the batches, and what it took."""

    loss: float
    seconds: float


def loss_sum(model: Llama4ForCausalLM, batch: Batch) -> torch.Tensor:
    """Natural-log cross-entropy summed over the batch's supervised tokens, f32; the caller divides.

    No attention mask: rows are padded on the right, where causal attention never looks.
    """
    hidden = model.model(input_ids=batch.ids, use_cache=False).last_hidden_state
    predicts = batch.targets[:, 1:]
    # The head is by far the largest matrix: it runs on the rows that count, not on prompts and padding.
    logits = model.lm_head(hidden[:, :-1][predicts])
    return functional.cross_entropy(logits.float(), batch.ids[:, 1:][predicts], reduction="sum")


def num_supervised(batches: Sequence[Batch]) -> int:
    return sum(int(batch.targets.sum()) for batch in batches)


def evaluate(
    model: Llama4ForCausalLM,
    batches: Sequence[Batch],
    device: torch.device,
    *,
    out_of_time: Callable[[], bool] = lambda: False,
) -> Evaluation | None:
    """Held-out loss without dropout; None where it ran out of time or there is nothing to evaluate."""
    total, tokens, started = 0.0, num_supervised(batches), time.monotonic()
    if not tokens:
        return None
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                if out_of_time():
                    return None
                total += loss_sum(model, batch.to(device)).item()
    finally:
        model.train(was_training)
    return Evaluation(total / tokens, time.monotonic() - started)
