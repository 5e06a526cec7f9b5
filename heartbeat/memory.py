"""Memory that a run needs on each GPU and on the host, term by term.

Three ways to hold the frozen weights: `resident` (all of them on every GPU), `sharded` (split over the GPUs, a
layer gathered when it is its turn), `streamed` (in host memory, a layer copied when it is its turn). All work
layer by layer over a group of micro-batches, so that a layer is moved and dequantised twice for a group.

Held against the trainer's measurements in benchmarks/results: `python -m heartbeat backtest`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from heartbeat.job import FineTuneJob
from heartbeat.scout import ModelShape
from heartbeat.workload import Workload, micro_batch_sizes

GIB = 2**30

CONTEXT_GIB = 1.0
"""CUDA context and cuBLAS workspaces of a process. Unverified, usual size."""
COMMUNICATION_GIB = 1.0
"""NCCL's buffers where GPUs work together. Unverified, usual size."""
MARGIN = 0.05
"""Share on top for what the allocator loses to fragments. Unverified."""
HOST_PROCESS_GIB = 9.0
"""Python, torch and its libraries, and what pinned memory takes beyond what is asked for, of one process: 4 to 9 GiB
more than the other terms (benchmarks/results)."""
USABLE_HOST_SHARE = 0.92
"""Of the host's memory; the rest is the system's and SageMaker's agents'. Unverified."""

_LOGITS_CHUNK_TOKENS = 1024
_BYTES_OF_TRAINED_PARAMETER = 16  # f32 value, gradient and Adam's two moments


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the trainer keeps what layers were given, and how many micro-batches go through a layer together."""

    boundaries: Literal["device", "host"] = "host"
    group_size: int = 8


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How a run is laid out on a machine, and what that needs of it."""

    work: Workload
    """In micro-batches of the size that was found."""
    layout: Layout
    gpu: Mapping[str, float]
    """As `gpu_terms`."""
    host: Mapping[str, float]
    """As `host_terms`."""

    def is_within(self, *, gpu_gib: float, host_gib: float) -> bool:
        return sum(self.gpu.values()) <= gpu_gib and sum(self.host.values()) <= host_gib


def fit(
    shape: ModelShape,
    job: FineTuneJob,
    work: Workload,
    *,
    mode: str,
    num_gpus: int,
    gpu_gib: float,
    host_gib: float,
    weight_format: str = "nf4",
) -> Fit:
    """The largest micro-batches that a GPU has memory for, and the largest group of them that the host has it for.

    Where there is no room at all, what needs least. Neither changes a step: it is the same conversations, and their
    sum. Fewer micro-batches are fewer kernels to start, which is what small ones wait for; a larger group has layers
    dequantised less often, and saves little more: with 8, that takes 2% of a step on an H100 (docs/performance.md).
    """
    for tokens in micro_batch_sizes(work.max_length):
        found = _fit(shape, job, replace(work, micro_batch_tokens=tokens), mode, num_gpus, host_gib, weight_format)
        if found.is_within(gpu_gib=gpu_gib, host_gib=host_gib):
            break
    return found


def _fit(
    shape: ModelShape,
    job: FineTuneJob,
    work: Workload,
    mode: str,
    num_gpus: int,
    host_gib: float,
    weight_format: str,
) -> Fit:
    for size in range(Layout.group_size, 0, -1):
        layout = Layout(group_size=size)
        host = host_terms(shape, work, mode=mode, num_gpus=num_gpus, layout=layout)
        if sum(host.values()) <= host_gib:
            break
    gpu = gpu_terms(shape, job, work, mode=mode, num_gpus=num_gpus, weight_format=weight_format, layout=layout)
    return Fit(work=work, layout=layout, gpu=gpu, host=host)


def gpu_terms(
    shape: ModelShape,
    job: FineTuneJob,
    work: Workload,
    *,
    mode: str,
    num_gpus: int,
    weight_format: str = "nf4",
    layout: Layout = Layout(),
) -> dict[str, float]:
    """GiB on one GPU, by what they are for; their sum is what the GPU must have."""
    tokens = work.micro_batch_tokens_per_gpu(num_gpus)
    row = 2 * shape.hidden_size  # bytes of one token's hidden state
    # Every micro-batch's hidden states, or their gradient, between two layers.
    boundaries = _group_tokens(work, num_gpus, layout) * row
    if layout.boundaries == "device":
        boundaries *= shape.num_layers
    if mode == "resident":
        weights: float = shape.text_bytes(weight_format)
        moving = 0.0
    else:
        # The embedding stays on the host, where the GPU reads the rows that it needs.
        shard = shape.layer_packs_bytes / num_gpus if mode == "sharded" else 0.0
        weights = shape.head_bytes + shard
        moving = float(shape.layer_pack_bytes)  # the next comes where the one in use is done with
    trained = shape.lora_parameters(job.lora_r, job.lora_targets) * _BYTES_OF_TRAINED_PARAMETER
    terms = {
        "weights": weights,
        "layers_in_flight": moving,
        "adapter_and_optimizer": trained,
        "boundary_activations": boundaries,
        "workspace": _workspace(shape, tokens, dequantises=mode != "resident" or weight_format != "bf16"),
    }
    gib = {name: value / GIB for name, value in terms.items()}
    gib["context"] = context_gib(num_gpus)
    gib["margin"] = MARGIN * sum(gib.values())
    return gib


def context_gib(num_gpus: int) -> float:
    """What a process takes of its GPU before it does anything."""
    return CONTEXT_GIB + (COMMUNICATION_GIB if num_gpus > 1 else 0.0)


def host_terms(
    shape: ModelShape,
    work: Workload,
    *,
    mode: str,
    num_gpus: int,
    layout: Layout = Layout(),
) -> dict[str, float]:
    """GiB of host memory, by what they are for."""
    terms = {"processes": HOST_PROCESS_GIB * num_gpus}
    if mode != "resident":
        embedding = 2 * shape.vocabulary_size * shape.hidden_size * num_gpus  # page-locked by each
        packs = shape.layer_packs_bytes if mode == "streamed" else 0
        terms["weights"] = (packs + embedding) / GIB
    if layout.boundaries == "host":
        tokens = _group_tokens(work, num_gpus, layout) * work.gpus_used(num_gpus)
        terms["boundary_activations"] = tokens * 2 * shape.hidden_size * shape.num_layers / GIB
    return terms


def _group_tokens(work: Workload, num_gpus: int, layout: Layout) -> float:
    """Of the micro-batches that one GPU has in work together, each as if it were full.

    Blocks of host memory have that room, and a larger step must not seem to need less than a smaller one where the
    group has to shrink.
    """
    return float(min(layout.group_size, work.micro_batches_per_gpu(num_gpus)) * work.micro_batch_tokens)


def _workspace(shape: ModelShape, tokens: float, *, dequantises: bool) -> float:
    """Bytes in use within one layer, or in the head: whichever is more, since they never are at once."""
    dequantised = 2 * shape.layer_parameters if dequantises else 0
    # Gate, up and their product, of the shared and the routed expert, each with its gradient, in bf16; or the
    # three of a dense layer; and a dozen tensors as wide as the hidden state.
    activations = tokens * (3 * shape.feed_forward_width * 2 * 2 + 12 * shape.hidden_size * 2)
    logits = 3 * 4 * _LOGITS_CHUNK_TOKENS * shape.vocabulary_size  # logits, softmax and gradient in f32
    return max(dequantised + activations, float(logits))
