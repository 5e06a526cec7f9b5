"""How a job is laid out on the machine that it finds itself on."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from heartbeat import asking, memory, packing
from heartbeat.candidates import MODES
from heartbeat.job import FineTuneJob
from heartbeat.memory import GIB
from heartbeat.scout import ModelShape
from heartbeat.workload import Workload, micro_batch_sizes
from training_code.data import Data
from training_code.errors import TrainingError
from training_code.llama import Llama, Placement
from training_code.ranks import Ranks

CPU_GROUP = 8
"""Micro-batches that go through a layer together where nothing is fetched: more would only hold more memory."""
GRAPH_SHARE_OF_HOST = 0.25
"""Of the CPU's free memory, which layers' graphs may take between a forward and a backward pass."""
LOADABLE_SHARE_OF_HOST = 0.9
"""Of the memory that is free; the rest is for activations and the process itself."""


@dataclass(frozen=True, kw_only=True)
class Arrangement:
    """Where the frozen weights and the activations lie."""

    mode: str
    weight_format: str
    """`nf4`, or `bf16` for weights as they come."""
    placement: Placement

    def to_text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> Arrangement:
        values = json.loads(text)
        return cls(**{**values, "placement": Placement(**values["placement"])})

    def describe(self, device: torch.device, dtype: torch.dtype, ranks: Ranks) -> str:
        weights = "NF4" if self.weight_format == "nf4" else str(dtype).removeprefix("torch.")
        where = {
            "resident": "whole on each device",
            "sharded": f"split over {ranks.world_size} devices",
            "streamed": "in host memory",
        }[self.mode]
        devices = "the CPU" if device.type == "cpu" else f"{ranks.world_size} x {torch.cuda.get_device_name(device)}"
        return (
            f"{self.mode} ({where}), weights {weights}, computing in {str(dtype).removeprefix('torch.')} on {devices}, "
            f"{self.placement.group_size} micro-batches of {self.placement.micro_batch_tokens:,} tokens at a time"
        )


def choose(
    job: FineTuneJob,
    shape: ModelShape,
    rows: Data,
    device: torch.device,
    ranks: Ranks,
    *,
    is_quantised: bool,
    before: Arrangement | None = None,
) -> Arrangement:
    """The job's MODE, or for `auto` the first that fits; weights as they come, or NF4 where those would not fit.

    Of a resumed run `before` is the arrangement that it had: its weights' format and, where they fit, the size of its
    micro-batches are kept, since dropout draws by micro-batch. Where layers lie, and how many micro-batches go through
    one together, changes no number.

    Raises TrainingError with the sizes where none does, or the one that is asked for cannot be.
    """
    if job.mode == "sharded" and ranks.world_size == 1:
        raise TrainingError("MODE=sharded needs several GPUs, and this job has 1; use auto, resident or streamed")
    if device.type == "cpu":
        return _with_micro_batches_of(_on_cpu(job, shape, ranks, is_quantised), before)
    # Free memory differs a little from GPU to GPU, and all ranks must do the same.
    told = ranks.text_of_first(
        _choose(job, shape, workload(job, rows), device, ranks, is_quantised=is_quantised, before=before).to_text()
        if ranks.is_first
        else "",
        device,
    )
    return Arrangement.from_text(told)


def _choose(
    job: FineTuneJob,
    shape: ModelShape,
    work: Workload,
    device: torch.device,
    ranks: Ranks,
    *,
    is_quantised: bool,
    before: Arrangement | None,
) -> Arrangement:
    free_gib = _free_device_bytes(device) / GIB
    # CUDA's context exists already: it is not among what is free.
    context_gib = memory.context_gib(ranks.world_size)
    gpu_gib = free_gib + context_gib
    host_gib = _free_host_bytes() * LOADABLE_SHARE_OF_HOST * ranks.num_hosts / GIB
    formats: tuple[str, ...] = ("nf4",) if is_quantised else ("bf16", "nf4")
    if before is not None and before.weight_format in formats:
        formats = (before.weight_format,)
    modes = MODES if job.mode == "auto" else (job.mode,)
    short: list[str] = []
    for weight_format in formats:
        found: list[Arrangement] = []
        for mode in modes:
            if (mode == "sharded" and ranks.world_size == 1) or (weight_format == "bf16" and mode != "resident"):
                continue
            fit = memory.fit(
                shape,
                job,
                work,
                mode=mode,
                num_gpus=ranks.world_size,
                gpu_gib=gpu_gib,
                host_gib=host_gib,
                weight_format=weight_format,
            )
            if fit.is_within(gpu_gib=gpu_gib, host_gib=host_gib):
                placement = Placement(
                    boundaries=fit.layout.boundaries,
                    micro_batch_tokens=fit.work.micro_batch_tokens,
                    group_size=fit.layout.group_size,
                )
                found.append(Arrangement(mode=mode, weight_format=weight_format, placement=placement))
            gpu, host = sum(fit.gpu.values()) - context_gib, sum(fit.host.values()) / ranks.num_hosts
            short.append(f"{mode} as {weight_format}: {gpu:.1f} and {host:.0f} GiB")
        if found:
            # Of several the first; but moving weights costs less than many small micro-batches do.
            return max(
                (_with_micro_batches_of(one, before) for one in found),
                key=lambda one: one.placement.micro_batch_tokens,
            )
    raise TrainingError(
        f"the job needs more than the {free_gib:.1f} GiB that are free on a GPU or the "
        f"{host_gib / ranks.num_hosts:.0f} GiB that may be used of its host ({'; '.join(short)}); lower MAX_LENGTH, or "
        "choose an instance with more memory"
    )


def _with_micro_batches_of(found: Arrangement, before: Arrangement | None) -> Arrangement:
    """No larger than they were before: what fits larger ones fits smaller ones."""
    tokens = found.placement.micro_batch_tokens
    if before is not None:
        tokens = min(tokens, before.placement.micro_batch_tokens)
    return replace(found, placement=replace(found.placement, micro_batch_tokens=tokens))


def _on_cpu(job: FineTuneJob, shape: ModelShape, ranks: Ranks, is_quantised: bool) -> Arrangement:
    weight_format = "nf4" if is_quantised else "bf16"
    mode = "resident" if job.mode == "auto" else job.mode
    # What is not quantised is computed in f32, which is twice what bf16 takes.
    needed = shape.text_bytes(weight_format) * (1 if is_quantised else 2)
    require_host_memory(shape, needed * (ranks.world_size if mode == "resident" else 1))
    placement = Placement(
        micro_batch_tokens=job.per_device_batch_size * job.max_length,  # nothing waits for kernels to start
        group_size=CPU_GROUP,
        graph_tokens=_graph_tokens(shape) if mode == "resident" else 0,
    )
    return Arrangement(mode=mode, weight_format=weight_format, placement=placement)


def _graph_tokens(shape: ModelShape) -> int:
    """Tokens whose graphs in all layers have room on the CPU: none of Scout's, a whole step's of a tiny model.

    A layer keeps some two dozen f32 tensors as wide as the hidden state, and a dozen as wide as its networks.
    """
    per_token = shape.num_layers * 4 * (24 * shape.hidden_size + 12 * shape.feed_forward_width)
    return int(_free_host_bytes() * GRAPH_SHARE_OF_HOST / per_token)


def require_host_memory(shape: ModelShape, num_bytes: int) -> None:
    """Raises TrainingError where a model of so many bytes does not fit into the memory that is free."""
    free = _free_host_bytes()
    if num_bytes > free * LOADABLE_SHARE_OF_HOST:
        raise TrainingError(
            f"the base model has {shape.text_parameters / 1e9:.1f} B parameters, {num_bytes / GIB:.1f} GiB here, and "
            f"{free / GIB:.1f} GiB of memory are free; choose an instance with more memory, or one with a GPU"
        )


def workload(job: FineTuneJob, rows: Data) -> Workload:
    """As the planner counts it, with tokens that are known rather than estimated."""
    tokens = sum(len(row.ids) for row in rows.training)
    return Workload(
        training_rows=len(rows.training),
        heldout_rows=len(rows.heldout),
        tokens_per_row=tokens / len(rows.training),
        step_rows=job.global_batch_size,
        micro_batch_tokens=micro_batch_sizes(job.max_length)[0],
        max_length=job.max_length,
        max_steps=job.max_steps,
        supervised_share=sum(row.num_supervised for row in rows.training) / tokens,
        lengths=tuple(packing.quantiles(Counter(len(row.ids) for row in rows.training))),
    )


def bytes_for_answers(job: FineTuneJob, rows: Data, llama: Llama, ranks: Ranks) -> float:
    """Of memory that keys and values of a batch may take: what is free but for one layer's work, as in training."""
    if llama.device.type == "cpu":
        # No rank knows what the others take, nor how many of them are on this host.
        return _free_host_bytes() * LOADABLE_SHARE_OF_HOST / ranks.world_size
    torch.cuda.empty_cache()
    # A prompt that is longer than what is read together is read alone.
    longest = max((len(row.ids) for row in rows.heldout), default=0)
    work = replace(workload(job, rows), micro_batch_tokens=max(asking.READING_TOKENS, longest))
    shape = llama.architecture.shape
    terms = memory.gpu_terms(shape, job, work, mode="streamed", num_gpus=ranks.world_size)
    return _free_device_bytes(llama.device) - terms["workspace"] * GIB


def _free_device_bytes(device: torch.device) -> int:
    free, total = torch.cuda.mem_get_info(device)
    own = math.floor(torch.cuda.get_per_process_memory_fraction(device) * total) - torch.cuda.memory_reserved(device)
    return min(free, own)


def _free_host_bytes() -> int:
    """Of this container: it may be held to less than the host has."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]) * 1024
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except OSError:
        return free
    return free if limit == "max" else min(free, int(limit) - used)
