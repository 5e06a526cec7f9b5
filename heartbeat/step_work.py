"""What one GPU has to do in one optimizer step, counted from the model's shape: FLOPs, and bytes that move."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from heartbeat.job import FineTuneJob
from heartbeat.memory import Layout
from heartbeat.scout import ModelShape
from heartbeat.workload import Workload

PASSES = 3
"""Through a layer's matrices: forward, recomputed forward, backward."""
HIDDEN_TOUCHES = 30
"""How often a layer reads or writes a tensor as wide as the hidden state, all passes together: norms, rotations,
residuals, the sort by expert. Counted in training_code/layer.py, roughly."""
ADAPTER_TOUCHES = 16
"""The same for each matrix with an adapter, of a tensor as wide as its input or output: dropout's mask, the product
with it, the sum and the scale, and their gradients. Counted roughly; held by the benchmarks with and without."""


@dataclass(frozen=True, kw_only=True)
class StepWork:
    """Of the GPU that has most to do; the others wait for it."""

    flops: Mapping[str, float]
    """By part of the model."""
    memory_bytes: Mapping[str, float]
    """Read from or written to the GPU's own memory, beyond what arithmetic hides."""
    link_bytes: float
    """Between GPUs, into one of them."""
    host_bytes: float
    """From host memory to one GPU: layers of a streamed model, and what layers were given, on its way back."""
    launches: float
    """Layers whose kernels the processor starts, counting each pass of each micro-batch."""

    @property
    def bytes(self) -> dict[str, float]:
        """All that move, by what they are for."""
        return {**self.memory_bytes, "from_other_gpus": self.link_bytes, "from_the_host": self.host_bytes}


def count(
    shape: ModelShape,
    job: FineTuneJob,
    work: Workload,
    *,
    mode: str,
    num_gpus: int,
    layout: Layout = Layout(),  # noqa: B008 (frozen)
) -> StepWork:
    """The work of a step on `num_gpus` GPUs in a mode of heartbeat.candidates.MODES."""
    gpus = work.gpus_used(num_gpus)
    tokens, micro_batches = work.step_tokens_per_gpu(gpus), work.micro_batches_per_gpu(gpus)
    groups = math.ceil(micro_batches / layout.group_size)
    per_token = shape.training_flops_per_token(
        context=work.tokens_per_row,
        lora_rank=job.lora_r,
        lora_targets=job.lora_targets,
        supervised_share=work.supervised_share,
    )
    matrices = shape.matrix_parameters
    hidden = 2 * shape.hidden_size * shape.num_layers
    packs = 2 * groups * shape.layer_packs_bytes  # forward and backward
    memory = {
        "hidden_states": tokens * HIDDEN_TOUCHES * hidden,
        "adapter": tokens * ADAPTER_TOUCHES * 2 * shape.lora_parameters(1, job.lora_targets, active=True),
        # However few tokens each has.
        "weights": micro_batches * PASSES * 2.0 * matrices,
        "dequantising": 2 * groups * matrices * 2.0 + packs,
    }
    boundaries = tokens * hidden if layout.boundaries == "host" else 0.0
    return StepWork(
        flops={name: value * tokens for name, value in per_token.items()},
        memory_bytes=memory,
        link_bytes=packs * (num_gpus - 1) / num_gpus if mode == "sharded" else 0.0,
        host_bytes=boundaries + (packs if mode == "streamed" else 0.0),
        launches=float(PASSES * micro_batches * shape.num_layers),
    )


def walk(shape: ModelShape, job: FineTuneJob, *, mode: str, num_gpus: int, rows: int, tokens_kept: float) -> StepWork:
    """The work of one GPU while one more token is said to each of `rows` prompts: one walk through all layers.

    Weight traffic, above all: every layer is brought and dequantised, and every matrix read, for however few tokens.
    `tokens_kept`: of each prompt and its answer so far, whose keys and values attention reads.
    """
    per_token = shape.training_flops_per_token(
        context=2 * tokens_kept, lora_rank=job.lora_r, lora_targets=job.lora_targets
    )
    matrices = shape.matrix_parameters
    packs = shape.layer_packs_bytes
    return StepWork(
        flops={name: value * rows / PASSES for name, value in per_token.items()},
        memory_bytes={
            "weights": 2.0 * matrices + shape.head_bytes,
            "dequantising": matrices * 2.0 + packs,
            "keys_and_values": rows * tokens_kept * shape.kv_cache_bytes_per_token,
        },
        link_bytes=packs * (num_gpus - 1) / num_gpus if mode == "sharded" else 0.0,
        host_bytes=float(packs) if mode == "streamed" else 0.0,
        launches=float(shape.num_layers),
    )
