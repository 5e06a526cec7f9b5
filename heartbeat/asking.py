"""Asking a model for answers: how many prompts are answered together. One rule, the trainer's and the planner's.

One walk through all layers gives each prompt of a batch one more token, so the more go together the fewer the walks.
What limits a batch is memory: a prompt keeps its keys and values in every layer until its answer has ended.
"""

from __future__ import annotations

import math

from heartbeat.scout import ModelShape

MOST_TOGETHER = 256
"""Beyond this arithmetic costs as much as the walk that it shares: computed for Scout on an H100, where 256 tokens
take 9 TFLOP and a walk moves 0.5 TB."""
FREE_SHARE = 0.7
"""Of the free memory that a batch may take. The rest is for attention, which reads a layer's keys once more as wide."""
READING_TOKENS = 2048
"""Of prompts that are read together, fewer than a micro-batch of training may have: what they are in work with is not
there for keys and values, and more of those save whole walks."""
_HIDDEN_COPIES = 4
"""Of a prompt's hidden states while it is read: what comes in, what goes out, and the two parts of the sum."""


def row_bytes(shape: ModelShape, *, prompt_tokens: float, new_tokens: int, itemsize: int = 2) -> float:
    """Of one prompt in a batch. In bf16 Scout keeps 192 KiB a token."""
    kept = shape.kv_cache_bytes_per_token * (prompt_tokens + new_tokens) / 2
    return itemsize * (kept + _HIDDEN_COPIES * shape.hidden_size * prompt_tokens)


def rows_together(*, free_bytes: float, row_bytes: float, num_rows: int) -> int:
    """Of `num_rows` prompts on a device with so much free memory; one at least."""
    return max(1, min(MOST_TOGETHER, num_rows, math.floor(free_bytes * FREE_SHARE / row_bytes)))
