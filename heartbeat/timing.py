"""How long a run takes: from measured rates where there are any, scaled from them where there is a basis.

A step's arithmetic and the movement of its weights overlap, so it takes as long as the longer of the two; the
high end of the range adds them up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from heartbeat.catalog import Instance
from heartbeat.job import FineTuneJob
from heartbeat.scout import SCOUT, ModelShape
from heartbeat.workload import Workload

Confidence = Literal["measured", "scaled", "unknown"]

MEASURED_TOKENS_PER_SECOND: Mapping[tuple[str, str], float] = {
    ("H100-80GB", "resident"): 3951,
    ("H100-80GB", "streamed"): 3046,
    ("H200-141GB", "resident"): 4017,
    ("H200-141GB", "streamed"): 3257,
}
"""Scout on one GPU, micro-batches of 2 x 4,096 tokens, rank 16 on attention; resident layers compiled, streamed
ones eager (docs/decisions.md). Sharded was not measured: it computes as resident does."""
REFERENCE_GPU = "H100-80GB"
REFERENCE_PEAK_TFLOPS = 989.0

LINK_EFFICIENCY = 199 / 450
"""All-gather of a layer over NVLink, measured on 4 H200: GB/s into each GPU over the datasheet's."""
PCIE_EFFICIENCY = 38 / 63
"""Copies from pinned host memory to 4 H200 at once, measured: GB/s each over the datasheet's."""
DEQUANTISING_SHARE = 0.07
"""Of the measured micro-batches' time, measured. It does not shrink with a micro-batch, the rest does."""
MEASURED_MICRO_BATCH_TOKENS = 2 * 4096
LAUNCH_SECONDS = 1e-3
"""Of one layer's kernels, once: what a small model's step is made of. Unverified."""

RANGES: Mapping[str, tuple[float, float]] = {"measured": (0.95, 1.15), "scaled": (0.7, 1.6)}
"""Lowest and highest over the best guess of a step's arithmetic. `scaled` is wide on purpose: how much of its
peak another GPU reaches is not known until it is measured."""

START_UP_SECONDS = 300.0
"""Instance, image and Python. Unverified."""
DOWNLOAD_GB_PER_SECOND = 1.0
"""Base weights from S3. Unverified."""
PREPARE_GB_PER_SECOND = 1.0
"""Reading, quantising and placing them. Unverified."""
UPLOAD_SECONDS = 60.0
"""The adapter, the results and the end of the job. Unverified."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds of a run. The terms are the best guess; `low` and `high` are of the whole run."""

    step: Mapping[str, float]
    """Of one step: arithmetic, weight_movement, launches; it takes the longest of them."""
    run: Mapping[str, float]
    """Of the run, term by term; the sum is what is paid for."""
    seconds_per_step: float
    low: float
    high: float
    confidence: Confidence

    @property
    def total(self) -> float:
        return sum(self.run.values())

    @property
    def outside_steps(self) -> float:
        return self.total - self.run["training"]


def estimate(shape: ModelShape, job: FineTuneJob, work: Workload, instance: Instance, mode: str) -> Timing | None:
    """How long the run takes, or None where there is no basis to say."""
    flops = _flops_per_second(instance, mode)
    movement = _movement_seconds(shape, instance, mode)
    if flops is None or movement is None:
        return None
    gpus = work.gpus_used(instance.num_gpus)
    per_token = _flops_per_token(shape, work.max_length, job) / flops
    micro_batches = work.micro_batches_per_gpu(gpus)
    dequantising = micro_batches * DEQUANTISING_SHARE * MEASURED_MICRO_BATCH_TOKENS * per_token
    arithmetic = work.step_tokens_per_gpu(gpus) * (1 - DEQUANTISING_SHARE) * per_token + dequantising
    launches = 3 * micro_batches * shape.num_layers * LAUNCH_SECONDS
    step = max(arithmetic, movement, launches)

    # Forward only: a third of the arithmetic, and half of the movement.
    heldout = work.heldout_tokens / gpus * per_token / 3
    one_evaluation = max(heldout, movement / 2) if work.heldout_rows else 0.0
    num_evaluations = 2 + (job.max_steps - 1) // job.eval_every_steps
    weights_gb = shape.bytes_bf16 / 1e9
    run = {
        "start_up": START_UP_SECONDS,
        "download": weights_gb / DOWNLOAD_GB_PER_SECOND,
        "prepare_weights": weights_gb / PREPARE_GB_PER_SECOND,
        "evaluation": num_evaluations * one_evaluation,
        "training": job.max_steps * step,
        "upload": UPLOAD_SECONDS,
    }
    confidence = _confidence(shape, instance, mode)
    least, most = RANGES[confidence]
    steps = run["training"] + run["evaluation"]
    rest = sum(run.values()) - steps
    # At worst nothing overlaps, and everything outside the steps takes half as long again.
    unhidden = (arithmetic * most + movement * 1.5 + launches) / step
    return Timing(
        step={"arithmetic": arithmetic, "weight_movement": movement, "launches": launches},
        run=run,
        seconds_per_step=step,
        low=rest * 0.7 + steps * least,
        high=rest * 1.5 + steps * max(unhidden, 1.0),
        confidence=confidence,
    )


def _flops_per_token(shape: ModelShape, context: int, job: FineTuneJob) -> float:
    adapter = shape.lora_parameters(job.lora_r, job.lora_targets)
    return sum(shape.training_flops_per_token(context=context, lora_parameters=adapter).values())


def _flops_per_second(instance: Instance, mode: str) -> float | None:
    """What one GPU reaches: the measured rate times the measured run's FLOPs, or the H100's by peak."""
    kind = "streamed" if mode == "streamed" else "resident"
    measured = FineTuneJob(lora_targets=("attention",))
    reference = _flops_per_token(SCOUT, measured.max_length, measured)
    rate = MEASURED_TOKENS_PER_SECOND.get((instance.gpu, kind))
    if rate is not None:
        return rate * reference
    if instance.peak_tflops is None:
        return None
    of_reference = instance.peak_tflops / REFERENCE_PEAK_TFLOPS
    return MEASURED_TOKENS_PER_SECOND[REFERENCE_GPU, kind] * reference * of_reference


def _movement_seconds(shape: ModelShape, instance: Instance, mode: str) -> float | None:
    """Of all layers' weights, twice: once forward, once backward. None where the bandwidth is unknown."""
    if mode == "resident":
        return 0.0
    others = (instance.num_gpus - 1) / instance.num_gpus if mode == "sharded" else 1.0
    bandwidth = instance.link_gb_per_second if mode == "sharded" else instance.pcie_gb_per_second
    efficiency = LINK_EFFICIENCY if mode == "sharded" else PCIE_EFFICIENCY
    if not bandwidth:
        return None
    return 2 * shape.layer_packs_bytes * others / (bandwidth * 1e9 * efficiency)


def _confidence(shape: ModelShape, instance: Instance, mode: str) -> Confidence:
    same_model = shape.text_parameters == SCOUT.text_parameters
    measured = (instance.gpu, mode) in MEASURED_TOKENS_PER_SECOND
    return "measured" if measured and same_model and instance.num_gpus == 1 else "scaled"
