"""Chains of elementwise work as one pass over memory, where a GPU and its compiler allow; plain PyTorch elsewhere.

A decoder layer's products take about half of its time on an H100 when everything between them runs operation by
operation: each reads and writes all tokens anew (docs/performance.md). The arithmetic is written once, in PyTorch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import chain
from typing import TypeVar

import torch

from training_code.device import has_triton

Result = TypeVar("Result")
VARIANTS = 64
"""Of one function that are compiled before the compiler refuses: with and without a gradient, with and without dropout,
for many tokens and for one. torch's own limit is 8."""


def fused(function: Callable[..., Result]) -> Callable[..., Result]:
    """Compile a function of tensors, and its gradient, for the GPUs that Triton knows.

    All tensors with as many rows as the first argument have rows for tokens: their number differs from micro-batch to
    micro-batch, and what is compiled serves them all. Intermediate results may keep f32 where the plain function
    rounds to bf16. Nothing may be drawn at random: the compiler's draws differ between a forward pass that has a
    gradient and one that has none (seen with torch 2.13).
    """

    @functools.cache
    def compiled() -> Callable[..., Result]:
        # Not before it is needed: the compiler alone takes seconds to import.
        from torch._dynamo import config

        config.recompile_limit = VARIANTS
        return torch.compile(function, fullgraph=True)

    @functools.wraps(function)
    def call(first: torch.Tensor, *rest: object) -> Result:
        if not has_triton(first.device):
            return function(first, *rest)
        flat = chain(*(argument if isinstance(argument, tuple) else (argument,) for argument in (first, *rest)))
        for argument in flat:
            if isinstance(argument, torch.Tensor) and argument.shape[:1] == first.shape[:1]:
                torch._dynamo.maybe_mark_dynamic(argument, 0)
        return compiled()(first, *rest)

    return call
