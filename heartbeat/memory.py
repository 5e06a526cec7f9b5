"""Memory that a run needs on each GPU and on the host, term by term.

Three ways to hold the frozen weights: `resident` (all of them on every GPU), `sharded` (split over the GPUs, a
layer gathered when it is its turn), `streamed` (in host memory, a layer copied when it is its turn). The last
two work layer by layer over the whole step, so that a layer is moved twice a step.

Held against measurements of the whole model on an H100 (docs/decisions.md): resident 64.8 GiB compiled and
65.4 GiB eager, streamed 10.0 and 11.5 GiB at one and two sequences of 4,096 tokens; tests/unit/test_memory.py.
"""

from __future__ import annotations

from heartbeat.job import FineTuneJob
from heartbeat.scout import ModelShape
from heartbeat.workload import Workload

GIB = 2**30

CONTEXT_GIB = 1.0
"""CUDA context and cuBLAS workspaces of a process. Unverified, usual size."""
COMMUNICATION_GIB = 1.0
"""NCCL's buffers where GPUs work together. Unverified, usual size."""
MARGIN = 0.05
"""Share on top for what the allocator loses to fragments. Unverified."""
HOST_PROCESS_GIB = 4.0
"""Python, torch and its libraries, and the buffers that weights are read through, of one process. Unverified."""
USABLE_HOST_SHARE = 0.92
"""Of the host's memory; the rest is the system's and SageMaker's agents'. Unverified."""

_LOGITS_CHUNK_TOKENS = 1024
_BYTES_OF_TRAINED_PARAMETER = 16  # f32 value, gradient and Adam's two moments


def gpu_terms(
    shape: ModelShape, job: FineTuneJob, work: Workload, *, mode: str, num_gpus: int, weight_format: str = "nf4"
) -> dict[str, float]:
    """GiB on one GPU, by what they are for; their sum is what the GPU must have."""
    tokens = work.micro_batch_tokens_per_gpu(num_gpus)
    row = 2 * shape.hidden_size  # bytes of one token's hidden state
    if mode == "resident":
        weights: float = shape.text_bytes(weight_format)
        moving = 0.0
        boundaries = tokens * row * shape.num_layers
    else:
        # The embedding stays on the host, where a look-up costs nothing.
        shard = shape.layer_packs_bytes / num_gpus if mode == "sharded" else 0.0
        weights = shape.head_bytes + shard
        moving = 2.0 * shape.layer_pack_bytes  # one in use, one on its way
        boundaries = 2 * work.step_tokens_per_gpu(num_gpus) * row
    trained = shape.lora_parameters(job.lora_r, job.lora_targets) * _BYTES_OF_TRAINED_PARAMETER
    terms = {
        "weights": weights,
        "layers_in_flight": moving,
        "adapter_and_optimizer": trained,
        "boundary_activations": boundaries,
        "workspace": _workspace(shape, tokens, dequantises=mode != "resident" or weight_format != "bf16"),
    }
    gib = {name: value / GIB for name, value in terms.items()}
    gib["context"] = CONTEXT_GIB + (COMMUNICATION_GIB if num_gpus > 1 else 0.0)
    gib["margin"] = MARGIN * sum(gib.values())
    return gib


def host_terms(shape: ModelShape, work: Workload, *, mode: str, num_gpus: int) -> dict[str, float]:
    """GiB of host memory, by what they are for."""
    terms = {"processes": HOST_PROCESS_GIB * num_gpus}
    if mode != "resident":
        embedding = 2 * shape.vocabulary_size * shape.hidden_size
        packs = shape.layer_packs_bytes if mode == "streamed" else 0
        terms["weights"] = (packs + embedding) / GIB
        tokens = work.step_tokens_per_gpu(num_gpus) * work.gpus_used(num_gpus)
        terms["boundary_activations"] = tokens * 2 * shape.hidden_size * shape.num_layers / GIB
    return terms


def _workspace(shape: ModelShape, tokens: float, *, dequantises: bool) -> float:
    """Bytes in use within one layer, or in the head: whichever is more, since they never are at once."""
    dequantised = 2 * shape.layer_parameters if dequantises else 0
    # Gate, up and their product, of the shared and the routed expert, each with its gradient, in bf16; or the
    # three of a dense layer; and a dozen tensors as wide as the hidden state.
    has_dense = shape.num_moe_layers < shape.num_layers
    inner = max(2 * shape.expert_size, shape.dense_size if has_dense else 0)
    activations = tokens * (3 * inner * 2 * 2 + 12 * shape.hidden_size * 2)
    logits = 3 * 4 * _LOGITS_CHUNK_TOKENS * shape.vocabulary_size  # logits, softmax and gradient in f32
    return max(dequantised + activations, float(logits))
