"""The learning rate of a step."""

from __future__ import annotations

import math

FINAL_SHARE = 0.1
"""Of the peak, at the last step: a decay to zero would spend the last tenth of the run learning nothing."""


def learning_rate(step: int, *, peak: float, warmup_steps: int, max_steps: int) -> float:
    """Of step `step`, counted from 0: linear from peak / warmup_steps to the peak, then a cosine to FINAL_SHARE."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    decay_steps = max(1, max_steps - 1 - warmup_steps)
    progress = min(1.0, (step - warmup_steps) / decay_steps)
    return peak * (FINAL_SHARE + (1 - FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * progress)))
